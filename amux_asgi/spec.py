"""What a model takes, as data: a row of the catalogue (`models.py`), and what `explain.py` checks a request against."""

from msgspec import Struct


class Pixels(Struct, frozen=True, kw_only=True):
    """A free-form size rule, in pixels: any WIDTHxHEIGHT inside it can be made."""

    step: int  # both edges are multiples of it
    longest: int  # edge
    ratio: int  # long edge : short edge at most
    fewest: int  # width * height
    most: int


class ModelSpec(Struct, frozen=True, kw_only=True):
    """What one model takes; lists are in the documented order.

    `fields` are OpenAI's fields it knows; another one of OpenAI's is refused with `unknown_parameter`. Where `snaps`,
    the adapter changes a size that cannot be made to the nearest that can, and an empty list says that the adapter
    decides; everything else is refused.
    """

    fields: frozenset[str]
    prompt_max: int  # code points
    n_max: int = 10
    sizes: tuple[str, ...] = ()  # empty where `pixels` rules
    pixels: Pixels | None = None
    qualities: tuple[str, ...] = ()
    backgrounds: tuple[str, ...] = ()
    output_formats: tuple[str, ...] = ()
    response_format: str = "b64_json"  # the model's own form, given when the client does not say
    size_code: str = "invalid_value"  # what a size outside `sizes` is called
    snaps: bool = False
    ratios: tuple[str, ...] = ()  # aspect ratios, "W:H"
    tiers: tuple[str, ...] = ()  # resolutions with a name, as "2K", smallest first
    defaults: tuple[str | None, str | None] = (None, None)  # size and quality of a request that says none, if fixed
