"""What is computed: schedule, memory, RAF neuron, segments, plan, and the plain reference that all backends match."""
