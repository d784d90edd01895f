"""What families of models share in translating configurations."""

from ..errors import ConfigurationError


def to_options(config: dict, fields: dict) -> dict:
    """fairseq's options of the fields of config.json.

    Args:
        fields: Hugging Face's field -> (fairseq's options, the value where config.json is silent).
    """
    options = {}
    for name, (targets, default) in fields.items():
        value = config.get(name)
        options.update(dict.fromkeys(targets, default if value is None else value))
    return options


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


def choose(table: dict, value, name: str):
    """`table[value]`.

    Raises:
        ConfigurationError: the table has no such entry; `name` is where the value comes from.
    """
    if value not in table:
        raise ConfigurationError(f"{name} is {value}, but only {', '.join(map(str, table))} can be converted")
    return table[value]


def flag(option: str) -> str:
    return f"--{option.replace('_', '-')}"
