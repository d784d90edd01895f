"""fairseq tasks; fairseq imports every file here by itself."""
