"""The package's own errors; `data_prep.errors` has their root, and turns them into one line and an exit status."""

from data_prep.errors import UserError


class ConfigurationError(UserError, ValueError):
    """A setting that cannot work.

    The message is one clear sentence that names the flag and its value and says what to do. It is
    raised before training or decoding starts, and :mod:`srformer_plugin.compat` makes it the one
    line that a command of fairseq ends with.
    """


class DamagedCheckpointError(ConfigurationError):
    """A file that is no checkpoint, or not all of one."""


class WeightsDoNotFitError(ConfigurationError):
    """Weights that are not those of the model that is to read them."""


class UnsafeCheckpointError(ConfigurationError):
    """A checkpoint that cannot be read without running code that it brings along."""
