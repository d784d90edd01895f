"""What families of models share in translating configurations."""

from ..errors import ConfigurationError


def to_options(config: dict, fields: dict) -> dict:
    """fairseq's options of the fields of config.json.

    Args:
        fields: Hugging Face's field -> (fairseq's options, the value where config.json is silent).
    Raises:
        ConfigurationError: a field that is no such number.
    """
    options = {}
    for name, (targets, default) in fields.items():
        options.update(dict.fromkeys(targets, number(config, name, default)))
    return options


def number(config: dict, name: str, default):
    """A number of config.json: where the default is a whole one a size, from 1 on, else a rate, from 0 to 1.

    Raises:
        ConfigurationError: it is something else.
    """
    value = config.get(name)
    if value is None:
        return default
    is_size = isinstance(default, int)
    kinds, fits = ((int,), lambda: value >= 1) if is_size else ((int, float), lambda: 0 <= value <= 1)
    if isinstance(value, bool) or not isinstance(value, kinds) or not fits():
        what = "a whole number from 1 on" if is_size else "a number from 0 to 1"
        raise ConfigurationError(f"config.json has {name} {value!r}, which must be {what}")
    return value


def switch(config: dict, name: str, default: bool) -> bool:
    """Something that config.json says is so or not.

    Raises:
        ConfigurationError: it says something else.
    """
    value = config.get(name)
    if value is not None and not isinstance(value, bool):
        raise ConfigurationError(f"config.json has {name} {value!r}, which must be true or false")
    return default if value is None else value


def from_options(options: dict, fields: dict, whose: str) -> dict:
    """The inverse of `to_options`.

    Raises:
        ConfigurationError: two options differ that Hugging Face has one field for; `whose` names the model.
    """
    config = {}
    for name, (sources, default) in fields.items():
        values = {option: options.get(option, default) for option in sources}
        if len(set(values.values())) > 1:
            both = " and ".join(f"{flag(option)} {value}" for option, value in values.items())
            raise ConfigurationError(f"{whose} has one {name} for both sides, not {both}")
        config[name] = values[sources[0]]
    return config


def check_config(config: dict, expected: dict, whose: str):
    """Raise a ConfigurationError where config.json has another value than `expected`."""
    for name, value in expected.items():
        found = config.get(name)
        if found is not None and found != value:
            raise ConfigurationError(f"config.json has {name} {found}, but {whose} has {value}")


def choose(table: dict[str, str], value, name: str) -> str:
    """`table[value]`.

    Raises:
        ConfigurationError: the table has no such entry; `name` is where the value comes from.
    """
    if not isinstance(value, str) or value not in table:
        raise ConfigurationError(f"{name} is {value}, but only {', '.join(map(str, table))} can be converted")
    return table[value]


def flag(option: str) -> str:
    """An option's flag on fairseq's command line."""
    return f"--{option.replace('_', '-')}"
