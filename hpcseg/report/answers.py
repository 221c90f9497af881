"""The answers to the questions that a job may ask, one line each, from the records. Knows no page."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from hpcseg import metrics
from hpcseg.config import NoiseLevel
from hpcseg.records.collect import Records
from hpcseg.records.filters import filter_of
from hpcseg.records.groups import (
    Group,
    against,
    alike_but,
    axes,
    axes_label,
    both_splits,
    flat,
    group_label,
    text,
    training_label,
)
from hpcseg.records.observations import VALIDATION, WHOLE
from hpcseg.records.row import CLEAN
from hpcseg.report import own
from hpcseg.report.baselines import filtered
from hpcseg.report.measures import SETS, at, gain, gain_of_slices, matched, of_class, of_confusion
from hpcseg.report.own import iou
from hpcseg.report.paper_tables import beside_the_papers, table1, table2
from hpcseg.report.readings import all_readings
from hpcseg.report.seeds_apart import which_seed
from hpcseg.report.table import Unit, estimate_text
from hpcseg.report.tables import needed, trend
from hpcseg.report.texts import TEXTS
from hpcseg.statistics import FEWEST, Estimate, Repetition, best, difference, estimate, of_setting, shown_of, weighted
from hpcseg.text import counted, shown

_NEXT = 10
_ALL = 10**9
"""More slices that somebody may label, to say what they would bring."""
_TOO_FEW = " (fewer than three repetitions, or one seed, have no interval: they say nothing of another training)"
_ONE_SLICE = " (one test slice has no interval: it says nothing of others)"


@dataclass(frozen=True)
class Answer:
    """A question and what the records say of it."""

    question: str
    text: str = ""
    """"" where a job asks in its own words, and where its records do not say."""
    where: str = ""
    """The table that has more."""


_OF_OWN_JOBS = {"network": "axes"}
"""The table of jobs that have nothing of the paper, for what is asked there as well."""


def answers(records: Records) -> tuple[Answer, ...]:
    """Those that the job names, or all that belong to its tables; its questions in other words stand before them."""
    asked, tables = records.settings.questions, records.settings.tables
    own = [Answer(words) for words in asked if words not in ANSWERS]
    named = [name for name in asked if name in ANSWERS]
    belong = [name for name in ANSWERS if {ANSWERS[name][1], _OF_OWN_JOBS.get(name)} & {*tables}]
    found = {name: ANSWERS[name][0](records) for name in named or belong}
    return (*own, *(Answer(TEXTS["questions"][name], text, ANSWERS[name][1]) for name, text in found.items() if text))


def quality(records: Records) -> str | None:
    """How much of the test is right with the setting that is best on it: on whole slices, if any cell has them."""
    for level, pixels in ((WHOLE, "of whole test slices"), (CLEAN.key, "of the clean test tiles")):
        rivals = {group: at(records, level)(group) for group in records.groups}
        found = {group: estimated for group, ones in rivals.items() if (estimated := estimate(ones))}
        if found:
            first = max(found, key=lambda group: found[group].mean)
            ratio = estimate(iou(level)(first))
            said = f"{estimate_text(found[first], Unit.RIGHT)} % {pixels}"
            said += f", mean IoU {estimate_text(ratio, Unit.RATIO)}" if ratio else ""
            if len(found) == 1:
                return f"{said}."
            others = "the other" if len(found) == 2 else f"each of the {len(found) - 1} others"
            verdict = "" if best(list(rivals.values())) is not None else "not "
            label = axes_label(first, axes(records.groups))
            return f"{said}, with {label}: {verdict}shown to be better than {others}."
    return None


def runs(records: Records) -> str | None:
    """What each run gains over its like in the first one, on every test set: with noise and without may differ."""
    block, gains = own.compared(records).blocks[-1], []
    for line in block.lines:
        tested = zip(block.columns, line.cells, strict=True)
        right = [(name.removesuffix(own.RIGHT), cell.found) for name, cell in tested if name.endswith(own.RIGHT)]
        parts = [f"{name} {_points(found)}" for name, found in right if found]
        gains += [f"{line.label.text}: {'; '.join(parts)}."] if parts else []
    return " ".join(gains) or None


def reproduced(records: Records) -> str | None:
    """How near Tables 1 and 2 are to the paper's."""
    found = {**beside_the_papers(table1(records)), **beside_the_papers(table2(records))}
    both = {f"{row}, {column}": pair for row, of in found.items() for column, pair in of.items()}
    apart = [(abs(ours - theirs), f"{name}: {ours:.3f} ({theirs:.3f})") for name, (ours, theirs) in both.items()]
    near = sum(distance <= 0.01 for distance, _ in apart)
    return f"{near} of {len(apart)} are within a point of the paper's; farthest is {max(apart)[1]}." if apart else None


def clean(records: Records) -> str | None:
    """The slope of clean accuracy over the training noise."""
    found = trend(records, CLEAN.key, 0.0)
    said = "of accuracy per 100 % of noisy training tiles, over all settings and seeds."
    return f"{_points(found)} {said}" if found else None


def mixed(records: Records) -> str | None:
    """Which noise fraction is best on a test set of clean and noisy tiles, and what any noise brings."""
    level = next((one.key for row in records.rows if (one := row.config.evaluate.mixed())), "")
    planned = [series for series in alike_but(records.groups, "train.noise_fraction") if len(series) > FEWEST]
    tested = [{group.noise: group for group in series.values() if at(records, level)(group)} for series in planned]
    # Means over other settings would not be comparable: of those that lack a fraction, such as settings under way.
    fractions, rivals = max(tested, key=len, default={}).keys(), dict[float, list[Repetition]]()
    for place, series in enumerate(one for one in tested if fractions <= one.keys()):
        for noise, group in series.items():
            rivals.setdefault(noise, []).extend(of_setting(at(records, level)(group), place))
    errors = {fraction: found for fraction, ones in sorted(rivals.items()) if (found := estimate(ones))}
    noisy = [fraction for fraction in errors if fraction]
    if len(noisy) < 2:
        return None
    first = max(noisy, key=lambda fraction: errors[fraction].mean)
    others = [fraction for fraction in noisy if fraction != first]
    ahead = [found for fraction in others if (found := difference(rivals[first], rivals[fraction]))]
    gain = difference(rivals[first], rivals.get(0.0, []))
    any_noise = f"; {100 * first:g} % against none: {_points(gain)}" if gain else ""
    rates = ", ".join(f"{100 * fraction:g} %: {_errors(found)}" for fraction, found in errors.items())
    said = f"{any_noise}. Errors over the settings with all of these: {rates}."
    if not any(one.half is not None for one in ahead):
        told = _without_interval(ahead) if ahead and (not gain or gain.half is not None) else ""
        return f"{100 * first:g} % of noisy tiles has the fewest errors{told}{said}"
    behind = shown_of([difference(rivals[first], rivals[fraction]) for fraction in others])
    level_with = sorted([first, *(one for one, worse in zip(others, behind, strict=True) if not worse)])
    verdict = "is the best" if len(level_with) == 1 else "cannot be told apart"
    which = f"{', '.join(f'{100 * fraction:g}' for fraction in level_with)} % of noisy tiles {verdict}"
    return f"{which}{said}"


def classes(records: Records) -> str | None:
    """Recall of every class on noisy tiles, without noise in training and with the least share of it."""
    series, rates = _longest(records, "train.noise_fraction"), []
    for group in series[:2]:
        parts = []
        for place, value in enumerate(records.class_names):
            recall = estimate(of_confusion(SETS["noisy"], of_class(metrics.recall_per_class, place))(group))
            parts += [f"{value}: {estimate_text(recall, Unit.RATIO)}"] if recall else []
        rates += [f"trained with {training_label(group, records.differing)}, class {', '.join(parts)}"] if parts else []
    data, sigma = series[0].config.data, shown(series[0].config.evaluate.table_sigma)
    where = f"Recall on test tiles with noise of sigma {sigma} ({data.tiles}, {data.split})"
    return f"{where}: {'; '.join(rates)}." if rates else None


def split(records: Records) -> str | None:
    """What a shuffled split flatters, on the slices that both test; and how far two stretches of slices differ."""
    pairs = both_splits(records.groups, records.differing)
    gains = []
    for place, (shuffled, blocked) in enumerate(pairs):
        for one, other in matched(records, blocked, shuffled, CLEAN.key):
            gains += of_setting([weighted([(1.0, one), (-1.0, other)])], place)
    found = estimate(gains)
    if found is None:
        return None
    # The one with the least noise, of the largest tiles that are tested.
    tested = [blocked for _, blocked in pairs if blocked.tested]
    group = next(blocked for blocked in tested if blocked.config.data.tiles == tested[-1].config.data.tiles)
    stretches = [estimate(at(records, level)(group)) for level in (CLEAN.key, VALIDATION)]
    rates = " and ".join(_errors(one) for one in stretches if one)
    return (
        f"Blocked against shuffled, clean, on the slices that both test: {_points(found)}, over all settings. "
        f"Errors on the test's and on the validation's stretch: {rates} ({group_label(group, records.differing)})."
    )


def chance(records: Records) -> str | None:
    """How many repetitions a difference takes, on clean tiles."""
    pairs = against(records.groups, records.differing)
    found = (gain_of_slices(records, *pair, CLEAN.key) for pair in pairs)
    known = [one for one in found if one]
    if known and not any(one.half is not None for one in known):
        return f"It is not known here{_without_interval(known)}."
    return needed(known, "comparisons on clean tiles") or None


def network(records: Records) -> str | None:
    """The network beside a filter of blur and grey thresholds."""
    places = list(records.positions.values()) or records.groups
    noisy_models = [one for one in places if one.noise and one.tested]
    tested = [group for group in noisy_models if group.rows[0].config.evaluate.sweep_max] or noisy_models
    if not tested:
        return None
    # Of a run under way the last setting may have a single seed.
    known = [one for one in tested if (found := estimate(at(records, CLEAN.key)(one))) and found.half is not None]
    group, parts = (known or tested)[-1], list[str]()
    for sigma in dict.fromkeys((0.0, group.config.evaluate.table_sigma)):
        level = NoiseLevel(sigma).key
        ours, theirs = estimate(at(records, level)(group)), filtered(records, group, level)
        if ours and theirs:
            parts.append(f"{_errors(ours)} errors against the filter's {_errors(theirs)} at sigma {shown(sigma)}")
    if not parts:
        return "Not measured yet: `hpcseg report --data FILE` with the packed slices measures a filter in a minute."
    ahead = _where_ahead(records, group) if group.rows[0].config.evaluate.sweep_max else ""
    parts += [ahead] if ahead else []
    return f"{'; '.join(parts)} ({group_label(group, records.differing)})."


def _where_ahead(records: Records, group: Group) -> str:
    """From which sigma on the filter has fewer errors, at that one and all larger ones, than each of the trainings.

    Empty where none of them has been swept.
    """
    sigmas = group.config.evaluate.sigmas()
    crossed, trainings = list[int](), 0
    for row in group.rows:
        one = filter_of(records, row)
        # A training of before the job had so long a sweep, or any, does not say.
        if row.evaluation is None or one is None or not {*sigmas} <= {*row.config.evaluate.sigmas()}:
            continue
        trainings += 1
        ahead = []
        for sigma in sigmas:
            theirs, ours = one.confusion.get(NoiseLevel(sigma).key), row.test_accuracy(NoiseLevel(sigma))
            ahead.append(ours is not None and theirs is not None and metrics.accuracy(theirs) > ours)
        behind = [place for place, found in enumerate(ahead) if not found]
        if not behind or behind[-1] < len(sigmas) - 1:
            crossed.append(behind[-1] + 1 if behind else 0)
    if not trainings:
        return ""
    if not crossed:
        return "no training falls behind the filter, which is fitted anew at each sigma"
    first, last = (shown(sigmas[place]) for place in (min(crossed), max(crossed)))
    where = f"sigma {first}" if first == last else f"a sigma between {first} and {last}, by training,"
    some = f" of {len(crossed)} of {trainings} trainings" if len(crossed) < trainings else ""
    return f"from {where} on the filter, which is fitted anew at each sigma, is ahead{some}"


def nearest(records: Records) -> str | None:
    """The reading of the paper that comes nearest to its small row."""
    found = [one for one in all_readings(records) if one.distance is not None]
    if len(found) < 2:
        return None
    one = min(found, key=lambda one: one.distance or 0.0)
    numbers = ", ".join(f"{each.mean:.3f}" for each in one.found if each)
    here = next((f"; as here {other.distance:.3f}" for other in found if other.settings == found[0].settings), "")
    inside = [f"{each.settings}, {each.level} ({each.distance:.3f})" for each in found if each.holds_all]
    text = f"{one.settings}, {one.level}: {numbers}, which is {one.distance:.3f} from the paper's six numbers{here}."
    return f"{text} All six lie inside of the intervals of: {'; '.join(inside)}." if inside else text


def slices(records: Records) -> str | None:
    """What more labelled slices bring, from the fewest to all, and what the next ones would."""
    groups = {group.config.data.train_slices or _ALL: group for group in _longest(records, "data.train_slices")}
    few, all_of = groups[min(groups)], groups[max(groups)]
    found = difference(at(records, WHOLE)(all_of), at(records, WHOLE)(few))
    if few is all_of or found is None:
        return None
    to = "all" if max(groups) == _ALL else max(groups)
    few_slices = counted(min(groups), "labelled slice")
    text = f"From {few_slices} to {to}: {_points(found)} on whole slices ({all_of.config.data.tiles})."
    before = groups[sorted(groups)[-2]]
    last = difference(at(records, WHOLE)(all_of), at(records, WHOLE)(before))
    number, of_before = all_of.rows[0].training_slices(), before.rows[0].training_slices()
    if last is None or not number or not of_before or number <= of_before:
        return text
    # Errors fall about evenly along the logarithm of the number.
    more = 100 * last.mean * math.log((number + _NEXT) / number) / math.log(number / of_before)
    more = round(more, 2) + 0.0  # no -0.00
    return f"{text} If it goes on as from {of_before} to {number}, {_NEXT} more bring {more:+.2f} points."


def _effect(setting: str, *, level: str = "") -> Callable[[Records], str | None]:
    """What other values of a setting bring against one, all else equal, at every noise level or at `level`.

    That is the default, or, as long as no cell of it is tested, the number nearest to it that is.
    """

    def answer(records: Records) -> str | None:
        keys = [one.key for one in records.rows[0].config.evaluate.headline_levels()]
        series = alike_but(records.groups, setting)
        tested = [value for of in series for value, group in of.items() if group.tested]
        default = flat(type(records.rows[0].config)())[setting]
        usual = min(tested, key=lambda value: _apart(value, default), default=default)
        gains: dict[str, Estimate] = {}
        for value in dict.fromkeys(value for of in series for value in of if value != usual):
            for key in [level] if level else keys:
                if found := gain(records, series, value, usual, key):
                    gains[f"{text(value)} at {key}"] = found
        if not gains:
            return None
        marks = dict(zip(gains, shown_of(list(gains.values())), strict=True))
        held = "; ".join(f"{name} {_points(gains[name])}" for name, mark in marks.items() if mark)
        without = [one for one in gains.values() if one.half is None]
        bounds = [one.bound for name, one in gains.items() if not marks[name] and one.bound is not None]
        most = f", at most {100 * max(bounds):.2f} points" if bounds else ""
        known = len(gains) - len(without)
        of = f"{counted(known or len(gains), 'comparison')} with {setting} = {text(usual)}"
        if not known:
            return f"Not known of {of}{_without_interval(without)}."
        of += ", corrected for their number"
        more = f"; of {len(without)} more it is not known{_without_interval(without)}" if without else ""
        others = f"; not the others{most}" if bounds else ""
        return f"Shown of {of}: {held}{others}{more}." if held else f"Not shown in any of {of}{most}{more}."

    return answer


def _apart(value: object, default: object) -> float:
    """How far a setting is from its default; any other that is no number is as far as all of them."""
    if value == default or not isinstance(value, int | float) or not isinstance(default, int | float):
        return 0.0 if value == default else math.inf
    return abs(value - default)


def _longest(records: Records, setting: str) -> list[Group]:
    """The longest series of groups that differ in a setting alone, the last one in the job among equals.

    What is tested counts before what is planned.
    """
    series = [list(of.values()) for of in alike_but(records.groups, setting)]
    return max(reversed(series), key=lambda groups: (sum(group.tested for group in groups), len(groups)))


def _without_interval(found: Iterable[Estimate]) -> str:
    """Why some that have no interval have none."""
    return _TOO_FEW if any(one.few for one in found) else _ONE_SLICE


def _points(found: Estimate) -> str:
    mean = round(100 * found.mean, 2) + 0.0
    if found.half is None:
        return f"{mean:+.2f} points{_without_interval([found])}"
    if not found.excludes_zero:
        bound = 100 * (found.bound or 0.0)
        return f"{mean:+.2f} points, which may be chance ({bound:.2f} at most)"
    return f"{estimate_text(found, Unit.GAIN)} points"


def _errors(found: Estimate) -> str:
    return f"{estimate_text(found, Unit.ERROR)} %"


ANSWERS: Mapping[str, tuple[Callable[[Records], str | None], str]] = {
    "quality": (quality, "axes"),
    "runs": (runs, "compared"),
    "reproduced": (reproduced, "table2"),
    "mixed": (mixed, "levels"),
    "clean": (clean, "differences"),
    "classes": (classes, "classes"),
    "split": (split, "splits"),
    "chance": (chance, "differences"),
    "network": (network, "table2"),
    "noise_model": (_effect("train.noise_model"), "levels"),
    "noise_each_epoch": (_effect("train.noise_each_epoch"), "levels"),
    "batch_norm": (_effect("train.batch_norm"), "batch_norm"),
    "weight_decay": (_effect("train.weight_decay"), "weight_decay"),
    "schedule": (_effect("train.schedule"), "levels"),
    "keep": (_effect("train.keep"), "levels"),
    "loss": (_effect("train.loss"), "levels"),
    "class_weights": (_effect("train.class_weights"), "levels"),
    "exposure": (_effect("train.augment"), "levels"),
    "augment": (_effect("train.augment", level=WHOLE), "cost"),
    "slices": (slices, "cost"),
    "context": (_effect("data.context"), "levels"),
    "width": (_effect("train.width"), "levels"),
    "label_share": (_effect("data.label_share", level=WHOLE), "cost"),
    "which_seed": (which_seed, "seeds_apart"),
    "nearest": (nearest, "readings"),
}
"""What a job file may name under report.questions, and the table that has more; the questions are in texts.toml."""
