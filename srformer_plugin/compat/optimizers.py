"""What optimizers do to their own settings, and what becomes of the average of the weights."""

from types import SimpleNamespace

from fairseq.models.ema.ema import EMA
from fairseq.optim.adafactor import Adafactor
from fairseq.optim.fp16_optimizer import _FP16OptimizerMixin

from .patching import wrap

MARKS = ("is_of_memory",)  # attributes of parameters by which optimizers of ours know them (`optim.memory_parameters`)
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


def average_tied_weights_once():
    """Let ``--store-ema`` average a weight once an update, however many names it has.

    ``models/ema/ema.py:148`` goes by names, in place: embeddings that encoder, decoder and output share move three
    times, with a decay of 0.9999^3. Not needed when the average of a tied weight is that of an untied one.
    """

    def make_wrapper(original):
        def _step_internal(self, new_model, updates=None):
            averages = self.fp32_params if self.config.ema_fp32 else self.model.state_dict()
            first = {}  # place in memory of an average -> its first name
            for name, average in averages.items():
                first.setdefault((average.data_ptr(), average.shape) if average.numel() else name, name)
            state = new_model.state_dict()
            names = set(first.values()) | (state.keys() - averages.keys())
            weights = {name: weight for name, weight in state.items() if name in names}
            return original(self, SimpleNamespace(state_dict=lambda: weights), updates)

        return _step_internal

    wrap(EMA, "_step_internal", make_wrapper)


def keep_the_last_norms_of_averages():
    """Let the averages of ``--store-ema`` keep the norm behind the last layer (``--encoder-normalize-before``).

    ``models/ema/ema.py:164`` hands the averages back to their model without the versions of encoder and decoder, whose
    absence means a checkpoint of a time without those norms (``transformer_encoder.py:341``): they are taken out of the
    model at the first update, and are not in its checkpoints. Not needed when the averages of such a model still have
    them.
    """

    def make_wrapper(original):
        def restore(self, state_dict, build_fp32_params=False):
            own = self.model.state_dict()
            versions = {name: own[name] for name in own.keys() - state_dict.keys() if name.endswith(".version")}
            return original(self, {**state_dict, **versions} if versions else state_dict, build_fp32_params)

        return restore

    wrap(EMA, "restore", make_wrapper)


def keep_marks_in_float32():
    """Let the float32 copies of ``--bf16`` and ``--fp16-no-flatten-grads`` have the marks of what they are copies of.

    ``optim/fp16_optimizer.py:64`` copies fairseq's own, of which ``param_group`` is what ``--optimizer composite``
    chooses an optimizer by: a parameter that has it needs a group of that name in every configuration. Not needed when
    all attributes are copied.
    """

    def make_wrapper(original):
        def build_fp32_params(args, params, flatten=True):  # of the class: fairseq's is a class method
            copies = original(args, params, flatten=flatten)
            if not flatten:  # a vector of all parameters has none
                for parameter, copy in zip(params, copies):
                    vars(copy).update((name, value) for name, value in vars(parameter).items() if name in MARKS)
            return copies

        return build_fp32_params

    wrap(_FP16OptimizerMixin, "build_fp32_params", make_wrapper)
