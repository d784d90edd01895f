"""What optimizers do to their own settings."""

from fairseq.optim.adafactor import Adafactor

from .patching import wrap

GIVEN = "given_lr"  # a group's learning rate as the scheduler set it, while a step is made


def scale_adafactors_rate_by_each_parameter_alone():
    """Give every parameter the learning rate times its own root mean square with ``--scale-parameter``.

    ``optim/adafactor.py:224`` writes that product back to the group's rate, from which the next parameter's is taken.
    So the rate shrinks from one parameter to the next, and all but the first few of a model stay as they are. Not
    needed when the step keeps the product in a variable of its own.
    """

    def rate(original):
        def _get_lr(self, group, state):
            return original(self, {**group, "lr": group.get(GIVEN, group["lr"])}, state)

        return _get_lr

    def steps(original):
        def step(self, closure=None):
            for group in self.param_groups:
                group[GIVEN] = group["lr"]
            try:
                return original(self, closure)
            finally:  # also what the log shows as the rate
                for group in self.param_groups:
                    group["lr"] = group.pop(GIVEN)

        return step

    wrap(Adafactor, "_get_lr", rate)
    wrap(Adafactor, "step", steps)
