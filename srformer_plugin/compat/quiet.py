"""Importing fairseq says nothing: its speech tasks would otherwise ask everybody to install tensorboardX."""

import logging

logging.getLogger("fairseq.tasks.text_to_speech").setLevel(logging.WARNING)
