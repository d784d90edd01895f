"""Command line tools: `python -m srformer_plugin.tools.NAME`."""
