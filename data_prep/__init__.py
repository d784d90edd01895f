"""Readers that turn raw text into line files: ``{train,valid,test}.{source,target}``, one document a line."""
