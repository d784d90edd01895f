"""The kernels: `choose` (means and the choice), `readers` (who reads a segment), `forward`, `backward`, `step`."""
