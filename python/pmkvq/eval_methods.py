"""Names of what `pmkvq eval` compares: a scheme, its options, and how much it may hold.

    NAME[+OPTION...][:AMOUNT]       pmkvq:3500KiB   paper:2   kivi+group=128:k4v2

Neighbours: evaluate.py (help), baselines.py (schemes), cache_plan.py (schedules).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from pmkvq import baselines, trial
from pmkvq.cache_plan import LADDER, PAGE_TOKENS, Geometry, Limits, budget_for_bits

# Without an amount: the compiled product's bf16 cache, and that of the torch model.
EXACT = ("bf16", "torch")
BASELINES = ("paper", "kivi", "turboquant", "rtn", "trial")
NAMES = (*EXACT, "pmkvq", *BASELINES)

_PRODUCT_OPTIONS = ("least_loss", "key=FORMAT", "value=FORMAT", "calibration=FILE", "scales", "nearest", "allocate",
                    "none")
# Those that say what of a calibration is taken.
_BY_CALIBRATION = ("scales", "nearest", "allocate")
_SCHEDULES = ("keys_last", "page", "layer")
# Goes by what a calibration says of pmkvq's formats.
_BY_LOSS = "least_loss"
_UNITS = {"b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "kb": 10**3, "mb": 10**6, "gb": 10**9}
_WIDTH = r"\d+(?:\.\d+)?"
# What a baseline's options may be, beside those of all baselines.
_FLAGS = {"turboquant": {"norm": "correct"}, "trial": {"exact": "exact", "mean": "mean"}}
_CHOICES = {"kivi": {"group": (32, 64, 128), "sink": (0, 1)},
            "trial": {"parameters": trial.PARAMETERS, "heads": (1, 2, 3, 4), "pages": (1, 2),
                      "feedback": trial.FEEDBACK}}
# Options whose values are any text.
_TEXTS = {"pmkvq": ("key", "value", "calibration"), "trial": ("calibration",)}
ORDERS = ("age", "mass", "recent", "error")
_AMOUNTS = "a width in bits (2, or k4v2), a budget a sequence (3500KiB), or a budget in bits an element (2.375bits)"


class MethodError(ValueError):
    """A method's name is not one; says what was expected."""


@dataclass(frozen=True)
class Method:
    """One way to keep a cache.

    text: as it was asked for. widths: of keys and values, fixed. budget: bytes a
    sequence. bits: a budget in bits an element of pages. At most one of the three is given.
    schedule: "none", one of Limits', of the product least_loss or, where nothing is asked for, what its
    calibration makes the best (""). floor: lowest bits under a budget. exact_prompt: a prompt is read
    in bf16 until its end. drop: pages are dropped where the floor is not enough. order: which pages fall
    below 2 bits first.
    """

    text: str
    name: str
    widths: tuple[float, float] | None = None
    budget: int | None = None
    bits: str | None = None
    schedule: str = "none"
    floor: tuple[float, float] = (2, 2)
    options: dict = field(default_factory=dict, compare=False)
    exact_prompt: bool = False
    drop: bool = False
    order: str = "age"

    @property
    def is_product(self) -> bool:
        return self.name in ("bf16", "pmkvq")

    @property
    def allocates(self) -> bool:
        """Whether a calibration chooses each layer's floors."""
        return self.options.get("allocate", False)

    def scheme(self) -> baselines.Scheme:
        """A baseline's formats."""
        if self.name == "kivi":
            # Under a schedule its pages, sink and window are pmkvq's.
            own = {} if self.schedule == "none" else {"sink": 1, "slides": False}
            return baselines.Kivi(**{**own, **self.options})
        return {"torch": baselines.RoundToNearest, "rtn": baselines.RoundToNearest, "paper": baselines.Paper,
                "turboquant": baselines.TurboQuant, "trial": trial.Trial}[self.name](**self.options)

    def limits(self, geometry: Geometry, slot_bytes: int, tokens: int) -> Limits:
        """What the method's schedule keeps to in one sequence of so many cached tokens."""
        if self.name in EXACT:
            return Limits("none", (16, 16), slot_bytes)
        if self.widths and self.schedule == "none":
            return Limits("none", self.widths, slot_bytes)
        if self.widths:  # the paper: its body ends at this width
            pages = geometry.pages(tokens) * geometry.page_heads
            body = pages * (slot_bytes + sum(map(geometry.part_bytes, self.widths)))
            return Limits(self.schedule, self.widths, slot_bytes, geometry.fixed_bytes(tokens) + body)
        budget = self.budget or budget_for_bits(geometry, tokens, float(self.bits))
        # least_loss fills the budget as keys_last does, but for less than one fall of a page-head.
        schedule = self.schedule if self.schedule in _SCHEDULES else "keys_last"
        return Limits(schedule, self.floor, slot_bytes, budget, self.drop)

    def product_slot_bytes(self, head_dim: int) -> int:
        """Parameters of a page-head in the product's formats, whatever the level."""
        formats = (self.options.get("key", "per_channel"), self.options.get("value", "per_token"))
        return sum((1 if text.startswith("per_token_symmetric") else 4)
                   * (head_dim if text.startswith("per_channel") else PAGE_TOKENS) for text in formats)

    def product_options(self, sequences: int) -> list[str]:
        """Of pmkvq-run, for so many sequences."""
        options = [f"--{part}-format={self.options[part].replace('/', '+')}"
                   for part in ("key", "value") if part in self.options]
        if "calibration" in self.options:
            # What it loses is what is measured.
            options += [f"--calibration={self.options['calibration']}", "--accept-loss"]
        if "scales" in self.options:
            options.append("--key-scales")
        if "nearest" in self.options:
            options.append("--rounding=nearest")
        if self.allocates:
            options.append("--allocate")
        if self.name == "bf16":
            return []
        key, value = self.widths or self.floor
        if self.widths:
            return [*options, "--schedule=none", f"--key-floor={key}", f"--value-floor={value}"]
        amount = f"--kv-budget={self.budget * sequences}" if self.budget else f"--kv-bits={self.bits}"
        floors = [] if (key, value) == (2, 2) else [f"--key-floor={key}", f"--value-floor={value}"]
        schedule = [f"--schedule={self.schedule}"] if self.schedule else []
        return [*options, *schedule, *floors, amount]


def parse_methods(text: str) -> list[Method]:
    """A comma list. Raises MethodError."""
    methods = [parse_method(part) for part in text.split(",")]
    for at, method in enumerate(methods):
        if method in methods[:at]:
            raise MethodError(f"{method.text}: given twice")
    return methods


def parse_method(text: str) -> Method:
    """Raises MethodError."""
    head, colon, amount = text.partition(":")
    name, *words = head.split("+")
    if name not in NAMES:
        raise MethodError(f"{text!r}: expected a method, one of {', '.join(NAMES)}, got {name!r}")
    options, schedule, floor = _options(text, name, words)
    if name in EXACT:
        if colon or words:
            raise MethodError(f"{text!r}: {name} has neither options nor an amount")
        return Method(text, name)
    exact, drop, order = options.pop("prompt", False), options.pop("drop", False), options.pop("order", "age")
    widths, budget, bits = _amount(text, name, amount)
    if widths and floor:
        raise MethodError(f"{text!r}: a floor is for a budget, {amount!r} is a fixed width")
    if name == "trial" and "calibration" in options and options.get("feedback") != "channels":
        raise MethodError(f"{text!r}: a calibration has what feedback=channels takes")
    if widths and "allocate" in options:
        raise MethodError(f"{text!r}: allocate chooses widths for a budget, {amount!r} is a fixed width")
    if widths and name != "paper":
        if schedule:
            raise MethodError(f"{text!r}: the {schedule} schedule needs a budget, {amount!r} is a fixed width")
        schedule = "none"
    chooses = name == "pmkvq" and "calibration" in options
    schedule = schedule or ("layer" if name == "paper" else "" if chooses else "keys_last")
    if (drop or order != "age") and schedule not in ("keys_last", "page"):
        raise MethodError(f"{text!r}: drop and order need a budget and the keys_last or page schedule")
    return Method(text, name, widths, budget, bits, schedule, floor or (2, 2), options, exact, drop, order)


def _options(text: str, name: str, words: list[str]) -> tuple[dict, str | None, tuple[int, int] | None]:
    """A method's own options, its schedule and its floor, as far as they are given."""
    options, schedule, floor = {}, None, None
    baseline = name in BASELINES
    flags = {"prompt": "prompt", "drop": "drop", **_FLAGS.get(name, {})} if baseline else {}
    choices = {"order": ORDERS, **_CHOICES.get(name, {})} if baseline else {}
    for word in words:
        key, _, value = word.partition("=")
        if word in _SCHEDULES or (name == "pmkvq" and word in ("none", _BY_LOSS)):
            schedule = word
        elif key == "floor":
            floor = _widths(text, value, _floors(name))
            if name == "pmkvq" and floor[0] < LADDER[-1]:
                raise MethodError(f"{text!r}: pmkvq's keys end at {LADDER[-1]} bits")
        elif value and key in _TEXTS.get(name, ()):
            options[key] = value
        elif name == "pmkvq" and word in _BY_CALIBRATION:
            options[word] = True
        elif key in choices:
            options[key] = _one_of(text, key, value, choices[key])
        elif word in flags:
            options[flags[word]] = True
        else:
            own = _PRODUCT_OPTIONS if name == "pmkvq" else [*flags, *(f"{key}=..." for key in choices),
                                                            *(f"{key}=FILE" for key in _TEXTS.get(name, ()))]
            raise MethodError(f"{text!r}: expected an option of {name} ({', '.join([*_SCHEDULES, 'floor=N', *own])}), "
                              f"got {word!r}")
    for word in _BY_CALIBRATION:
        if word in options and "calibration" not in options:
            raise MethodError(f"{text!r}: {word} goes by a calibration: expected +calibration=FILE")
    if schedule == _BY_LOSS and "calibration" not in options:
        raise MethodError(f"{text!r}: {_BY_LOSS} goes by a calibration: expected +calibration=FILE")
    if schedule == "none" and "allocate" not in options:
        raise MethodError(f"{text!r}: without a schedule a budget needs allocate; a fixed width is pmkvq:2")
    return options, schedule, floor


def _one_of(text: str, key: str, value: str, allowed: tuple):
    known = {str(one): one for one in allowed}
    if value not in known:
        *most, last = known
        raise MethodError(f"{text!r}: {key}: expected {', '.join(most)} or {last}, got {value!r}")
    return known[value]


def _floors(name: str) -> tuple:
    """Levels at which a method's pages may end."""
    return (*LADDER, trial.TERNARY, 1) if name == "trial" else (*LADDER, 1)


def _amount(text: str, name: str, amount: str):
    """(widths, bytes, bits), two of them None."""
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)bits", amount):
        if not 0 < float(match[1]) <= 32:
            raise MethodError(f"{text!r}: expected bits above 0, at most 32, got {match[1]}")
        return None, None, match[1]
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)([kmg]?i?b)", amount, re.IGNORECASE):
        if match[2].lower() in _UNITS:
            size = int(float(match[1]) * _UNITS[match[2].lower()])
            if size < 1:
                raise MethodError(f"{text!r}: expected at least one byte, got {amount}")
            return None, size, None
    if re.fullmatch(f"{_WIDTH}|k{_WIDTH}v{_WIDTH}", amount):
        allowed = {"pmkvq": LADDER, "paper": LADDER, "trial": (16, *trial.WIDTHS)}.get(name, (16, *baselines.WIDTHS))
        return _widths(text, amount, allowed), None, None
    raise MethodError(f"{text!r}: expected {_AMOUNTS} after ':', got {amount!r}")


def _widths(text: str, value: str, allowed) -> tuple[int, int]:
    """"4" or "k4v2" as widths of keys and values."""
    match = re.fullmatch(f"({_WIDTH})|k({_WIDTH})v({_WIDTH})", value)
    if not match:
        raise MethodError(f"{text!r}: expected a width like 2 or k4v2, got {value!r}")
    widths = tuple(float(word) if "." in word else int(word) for word in
                   (match[1] or match[2], match[1] or match[3]))
    for width in widths:
        if width not in allowed:
            raise MethodError(f"{text!r}: expected a width of {', '.join(map(str, sorted(allowed)))} bits, got {width}")
    return widths
