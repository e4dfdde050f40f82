"""The figures of docs/moments.md: ``judged.py``, ``measured.py``, ``moments_page.py``.

Against SciPy, NumPy, simulation and closed forms; the page from outcomes written by hand.
"""

from __future__ import annotations

import importlib
import json
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import initium
from tests.test_faults import BENCHMARKS


@pytest.fixture(scope="module")
def bench():
    """Modules of ``benchmarks`` by name."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module
    torch.set_num_threads(threads)


def draws(seed, count, scale=1.0, shift=0.0):
    return np.random.default_rng(seed).normal(shift, scale, count)


def standard_error(values):
    return values.std(ddof=1) / math.sqrt(len(values))


# Standard errors ------------------------------------------------------------------------------


@pytest.mark.parametrize(("seeds", "passes", "scale"), [(4, 4, 1.0), (48, 4, 3.0), (12, 8, 0.1)])
def test_the_difference_of_two_means_is_that_of_welch(bench, seeds, passes, scale):
    one, other = draws(0, seeds), draws(1, passes, scale)
    oracle = stats.ttest_ind(one, other, equal_var=False)
    noise, freedom = bench("judged")._combined(
        standard_error(one), standard_error(other), seeds, passes, False
    )
    assert freedom == pytest.approx(oracle.df)
    assert abs(one.mean() - other.mean()) / noise == pytest.approx(abs(oracle.statistic))


def test_an_exact_prediction_leaves_the_freedom_of_the_measurement(bench):
    combined = bench("judged")._combined
    assert combined(0.3, 0.0, 12, 1, False) == pytest.approx((0.3, 11))
    assert combined(0.0, 0.0, 12, 1, False) == (0.0, math.inf)


def test_a_single_start_strays_by_the_spread_of_one(bench):
    """A prediction from one start is that start: its distance to the mean of others."""
    seeds, tries = 6, 40_000
    rng = np.random.default_rng(2)
    measured, single = rng.normal(size=(tries, seeds)), rng.normal(size=tries)
    wanted = (measured.mean(1) - single).std()
    noise, freedom = bench("judged")._combined(1 / math.sqrt(seeds), 0.0, seeds, 1, True)
    assert noise == pytest.approx(wanted, rel=0.02)
    assert freedom == pytest.approx(seeds - 1)


@pytest.mark.parametrize(("seeds", "passes", "most"), [(4, 4, 0.005), (12, 3, 0.012)])
def test_a_right_prediction_is_seldom_missed_by_students_t(bench, seeds, passes, most):
    """0.27% where both spreads are alike; of three passes more, and by three errors far more."""
    judged, tries = bench("judged"), 8_000
    rng = np.random.default_rng(3)
    one, other = rng.normal(size=(tries, seeds)), rng.normal(size=(tries, passes))
    missed = {False: 0, True: 0}
    for measured, predicted in zip(one, other, strict=True):
        spread = judged._combined(
            standard_error(measured), standard_error(predicted), seeds, passes, False
        )
        miss = a_miss(judged, predicted.mean(), measured.mean(), *spread)
        if miss.error > 3 * miss.noise:  # by t it takes more, and _three is slow
            for student in missed:
                missed[student] += miss.beyond(0.0, student)
    assert 0.0015 < missed[True] / tries < most
    assert missed[False] / tries > 2.5 * missed[True] / tries


@pytest.mark.parametrize("freedom", [1, 3, 11.5, 47])
def test_three_standard_errors_by_t_are_as_unlikely_as_by_the_normal_law(bench, freedom):
    reach = bench("judged")._three(freedom)
    assert stats.t(freedom).cdf(reach) == pytest.approx(stats.norm.cdf(3))
    assert reach > 3


def test_three_are_three_where_the_error_is_known(bench):
    assert bench("judged")._three(math.inf) == 3
    assert bench("judged")._three(1e7) == pytest.approx(3, abs=1e-4)


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60), st.sampled_from([0.5, 0.95, 1.0]))
def test_a_percentile_is_a_value_of_the_sample(bench, values, share):
    found = bench("judged").percentile(values, share)
    assert found == np.quantile(values, share, method="higher")


# Misses ---------------------------------------------------------------------------------------


def a_miss(judged, predicted, measured, noise, freedom=math.inf, **more):
    given = {"model": "m", "start": "auto", "what": "forward", "where": "1", "module_type": "",
             "tier": "closed form"} | more  # fmt: skip
    return judged.Miss(
        **given, predicted=predicted, measured=measured, noise=noise, freedom=freedom
    )


@pytest.mark.parametrize(
    ("error", "noise", "freedom", "literal", "student"),
    [
        (0.24, 0.0, math.inf, True, True),
        (0.22, 0.0, math.inf, False, False),  # 25% is 0.223
        (0.50, 0.17, math.inf, False, False),
        (0.52, 0.17, math.inf, True, True),
        (0.52, 0.17, 6.0, True, False),  # three of t with six degrees are 4.9
        (0.90, 0.17, 6.0, True, True),
    ],
)
def test_a_miss_is_beyond_its_goal_and_beyond_the_noise(
    bench, error, noise, freedom, literal, student
):
    for sign in (1, -1):
        miss = a_miss(bench("judged"), sign * error, 0.0, noise, freedom)
        assert miss.beyond(0.25) is literal
        assert miss.beyond(0.25, student=True) is student


# Measurements ---------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.floats(1e-6, 1e6), min_size=2, max_size=20))
def test_statistics_over_seeds_are_those_of_numpy(bench, values):
    measured = bench("measured")
    array = np.array(values)
    logs = np.log(array)
    found = measured._stat(values)
    error = standard_error(array) / array.mean()
    wanted = (logs.mean(), standard_error(logs), math.log(array.mean()), error)
    assert found == pytest.approx(wanted, rel=1e-6, abs=1e-9)
    assert measured.mean(values) == pytest.approx((array.mean(), standard_error(array)), abs=1e-9)


def test_a_block_without_a_figure_under_some_seed_has_none(bench):
    measured = bench("measured")
    assert measured._stat([1.0, None]) is None
    assert measured._stat([]) is None
    assert measured._stat([0.0, 0.0]) == (math.log(1e-300), 0.0, math.log(1e-300), 0.0)


def test_a_summary_takes_every_block_over_the_seeds(bench):
    measured = bench("measured")
    runs = {
        "blocks": ["0", ""], "types": ["Linear", "Net"], "calm": True, "expected": math.log(2),
        "rows": [[0.6, [[1.0, 2.0], [4.0, None]]], [0.8, [[math.e, 2.0], [4.0, 1.0]]]],
    }  # fmt: skip
    found = measured.summary(runs)
    assert found["seeds"] == 2
    assert found["loss"] == pytest.approx((0.7, 0.1))
    assert found["forward"][0][:2] == pytest.approx((0.5, 0.5))
    assert found["forward"][0][2] == pytest.approx(math.log((1 + math.e) / 2))
    assert found["forward"][1] == pytest.approx((math.log(4), 0, math.log(4), 0))
    assert found["gradient"] == [pytest.approx((math.log(2), 0, math.log(2), 0)), None]
    runs["rows"][0][0] = None
    assert measured.summary(runs)["loss"] is None


def test_starts_without_a_prediction_have_half_the_seeds_and_come_later(bench):
    aim = bench("measured").aim
    assert [aim("auto", 4), aim("auto", 48), aim("he", 4), aim("lsuv", 12)] == [4, 48, 0, 6]


def test_a_prediction_is_centred_as_it_is_compared(bench):
    """Closed forms are means over passes, draws are geometric means."""
    centre = bench("measured")._centre
    assert centre([1.0, 3.0], 0) == pytest.approx((math.log(2), 0.5))
    assert centre([1.0, math.e**2], 4) == pytest.approx((1.0, 1.0))


# One model, measured and predicted ------------------------------------------------------------

SMALL = "net:small"


@pytest.fixture(scope="module")
def examined(bench):
    zoo = bench("zoo")
    zoo.NETS["small"] = (lambda: zoo._mlp(torch.nn.ELU, 2, 16), zoo._vectors(16))
    return bench("measured").examine(SMALL, {}, 2, ["closed form"], 60.0)


def test_a_model_is_examined_once_and_gone_on_from(bench, examined):
    measured = bench("measured")
    held = json.loads(json.dumps(examined))
    assert list(held["runs"]) == ["auto", "torch"]  # it is no library's
    assert len(held["runs"]["auto"]["rows"]) == 2
    held["runs"]["auto"]["rows"][0][0] = 77.0
    held["predictions"]["auto/closed form"]["loss"] = [78.0, 0.0, "closed form"]
    held["again"] = {"auto/closed form": {}}
    again = measured.examine(SMALL, held, 3, ["closed form"], 60.0)
    rows = again["runs"]["auto"]["rows"]
    assert rows[0][0] == 77.0
    assert rows[1] == examined["runs"]["auto"]["rows"][1]
    assert len(rows) == 3
    assert "again" not in again  # it was held against fewer seeds
    assert again["predictions"]["auto/closed form"]["loss"][0] == 78.0


def test_figures_of_other_plans_or_other_code_are_thrown_away(bench, examined, monkeypatch):
    measured = bench("measured")
    held = json.loads(json.dumps(examined))
    for one in held["runs"].values():
        one["rows"][0][0] = 77.0
    for one in held["predictions"].values():
        one["loss"] = [78.0, 0.0, "closed form"]
    held["runs"]["torch"]["key"] = "of another plan"
    monkeypatch.setattr(measured, "CODE", "other code")
    again = measured.examine(SMALL, held, 2, ["closed form"], 60.0)
    firsts = {start: one["rows"][0][0] for start, one in again["runs"].items()}
    assert firsts == {"auto": 77.0, "torch": examined["runs"]["torch"]["rows"][0][0]}
    for place, one in again["predictions"].items():
        assert one["loss"] == examined["predictions"][place]["loss"]


def test_a_key_rests_on_the_start_the_specs_and_the_libraries(bench, monkeypatch):
    measured, zoo = bench("measured"), bench("zoo")
    net = zoo.build("net:twin towers, cosines")
    view = initium.inspect(net.model, net.inputs)
    plans = {recipe: initium.plan(view, recipe) for recipe in ("auto", "torch", "he")}
    keys = {measured._key(start, plan) for start, plan in plans.items()}
    keys.add(measured._key("lsuv", plans["torch"]))
    assert len(keys) == 4
    before = measured._key("auto", plans["auto"])
    assert before == measured._key("auto", initium.plan(view, "auto", seed=5))
    monkeypatch.setattr(measured.importlib.metadata, "version", lambda name: "0.0")
    assert measured._key("auto", plans["auto"]) != before


@pytest.mark.parametrize("label", ["closed form", "lazy draws"])
def test_many_passes_predict_the_same_quantities(bench, examined, label):
    """With seeds of their own; what is exact needs no more than one."""
    measured = bench("measured")
    found = measured.again(SMALL, "torch", label, 6)
    held = examined["predictions"]["torch/closed form"]
    assert found["layers"].keys() == held["layers"].keys()
    assert found["passes"] in {"lazy draws": (6,), "closed form": (1, *range(6, 14))}[label]
    assert found["loss"][0] == pytest.approx(held["loss"][0], rel=0.05)


def test_measured_and_predicted_are_the_same_blocks(bench, examined):
    measured, judged = bench("measured"), bench("judged")
    starts = {start: measured.summary(runs) for start, runs in examined["runs"].items()}
    outcomes = {SMALL: {**examined, "starts": starts}}
    for what in ("forward", "gradient"):
        (rows,) = judged.comparisons(outcomes, "closed form", "auto", what).values()
        blocks = examined["runs"]["auto"]["blocks"]
        assert [one.where for one in rows] == (blocks if what == "forward" else blocks[:-1])
        assert [one.error for one in rows] == pytest.approx([0] * len(rows), abs=0.5)


# Comparisons ----------------------------------------------------------------------------------


def a_start(blocks, seeds=4, loss=(0.7, 0.01), calm=True, types=None):
    """Figures of a start; a block is its logarithm, its error, and the logarithm of its mean."""
    stats_ = [None if one is None else (one[0], one[1], one[2], one[1]) for one in blocks]
    return {
        "blocks": [str(number) for number in range(len(blocks) - 1)] + [""],
        "types": types or ["Linear"] * (len(blocks) - 1) + ["Net"],
        "calm": calm, "expected": math.log(2), "forward": stats_, "gradient": stats_,
        "seeds": seeds, "loss": loss,
    }  # fmt: skip


def a_prediction(values, passes=1, tier="closed form", loss=(0.7, 0.0)):
    names = [str(number) for number in range(len(values) - 1)] + [""]
    return {
        "layers": {
            name: {"forward": [value, 0.0, tier], "gradient": [value, 0.0, tier]}
            for name, value in zip(names, values, strict=True)
        },
        "loss": None if loss is None else [*loss, tier], "passes": passes, "notes": [],
    }  # fmt: skip


def an_outcome(starts, predictions):
    return {"starts": starts, "predictions": predictions}


def test_closed_forms_meet_the_mean_and_draws_the_mean_of_logarithms(bench):
    judged = bench("judged")
    start = a_start([(-0.5, 0.1, 0.0), (-0.7, 0.1, 0.3)])
    made = {"auto/closed form": a_prediction([0.0, 0.3]), "auto/lazy draws": a_prediction([0, 0])}
    outcomes = {"m": an_outcome({"auto": start}, made)}
    (closed,) = judged.comparisons(outcomes, "closed form", "auto", "forward").values()
    assert [one.error for one in closed] == [0.0, 0.0]
    (lazy,) = judged.comparisons(outcomes, "lazy draws", "auto", "forward").values()
    assert [one.measured for one in lazy] == [-0.5, -0.7]
    assert judged.comparisons(outcomes, "closed form", "torch", "forward") == {}


def test_blocks_without_both_sides_are_left_out(bench):
    judged = bench("judged")
    start = a_start([None, (math.inf, 0.1, math.inf), (0.0, 0.1, 0.0)])
    outcomes = {
        "m": an_outcome({"auto": start}, {"auto/closed form": a_prediction([0.0, 0.0, 0.0])}),
        "n": an_outcome({"auto": start}, {"auto/closed form": {"error": "TypeError: no"}}),
    }
    (rows,) = judged.comparisons(outcomes, "closed form", "auto", "forward").values()
    assert [one.where for one in rows] == [""]


def test_misses_begin_at_the_first_block_forward_and_at_the_last_one_back(bench):
    judged = bench("judged")
    flat = a_start([(0.0, 0.0, 0.0)] * 4, 48)
    made = {"auto/closed form": a_prediction([0.1, 0.5, 0.6, 0.6])}
    many = {"auto/closed form": a_prediction([0.1, 0.3, 0.2, 0.1])}
    outcomes = {"m": an_outcome({"auto": flat}, made)}
    found = {one.first.what: one for one in judged.missed(outcomes)}
    assert (found["forward"].first.where, found["forward"].count) == ("1", 3)
    assert (found["gradient"].first.where, found["gradient"].count) == ("2", 2)
    assert found["forward"].again is None
    outcomes["m"]["again"] = many
    found = {one.first.what: one for one in judged.missed(outcomes)}
    assert found["forward"].again.predicted == 0.3
    assert found["gradient"].again.predicted == 0.2
    assert judged.missed({"m": an_outcome({"auto": flat}, many)})[0].count == 1


def test_the_gradient_of_the_output_is_no_figure(bench):
    judged = bench("judged")
    start = a_start([(0.0, 0.1, 0.0)] * 3)
    outcomes = {"m": an_outcome({"auto": start}, {"auto/closed form": a_prediction([0.0] * 3)})}
    for what, blocks in (("forward", ["0", "1", ""]), ("gradient", ["0", "1"])):
        (rows,) = judged.comparisons(outcomes, "closed form", "auto", what).values()
        assert [one.where for one in rows] == blocks


def test_measured_blocks_without_a_prediction_are_counted(bench):
    judged = bench("judged")
    start = a_start([(0.0, 0.1, 0.0), None, (0.0, 0.1, 0.0), (0.0, 0.1, 0.0)])
    made = a_prediction([0.0, 0.0, math.inf, 0.0])
    made["layers"]["0"]["gradient"] = None
    outcomes = {
        "m": an_outcome({"auto": start}, {"auto/closed form": made}),
        "n": an_outcome({"auto": start}, {"auto/closed form": {"error": "TypeError: no"}}),
    }
    assert judged.unmatched(outcomes) == 3  # "2" forward and back, "0" back
    outcomes["m"]["predictions"]["auto/lazy draws"] = a_prediction([0.0] * 4)
    assert judged.unmatched(outcomes) == 3


def test_draws_that_are_all_the_same_pass_are_known(bench):
    judged = bench("judged")
    made = a_prediction([0.5, 0.2], passes=4)
    assert judged.as_built(made)
    assert not judged.as_built({**made, "passes": 1})
    assert not judged.as_built({"error": "TypeError: no"})
    made["layers"]["0"]["gradient"][1] = 1e-9
    assert not judged.as_built(made)


def test_first_losses_are_relative_and_count_where_logits_are_small(bench):
    judged = bench("judged")
    made = {"auto/closed form": a_prediction([0.0], loss=(0.72, 0.0))}
    outcomes = {
        "calm": an_outcome({"auto": a_start([(0, 0, 0)], loss=(0.7, 0.07))}, made),
        "wild": an_outcome({"auto": a_start([(0, 0, 0)], calm=False)}, made),
        "none": an_outcome({"auto": a_start([(0, 0, 0)], loss=None)}, made),
        "silent": an_outcome(
            {"auto": a_start([(0, 0, 0)])}, {"auto/closed form": a_prediction([0.0], loss=None)}
        ),
    }
    (one,) = judged.losses(outcomes, "closed form", "auto")
    assert (one.model, one.noise) == ("calm", pytest.approx(0.1))
    assert one.error == pytest.approx(math.log(0.72 / 0.7))


def test_metrics_are_of_the_blocks_of_the_commonest_type(bench):
    blocks = [(9, 0.0, 9), (0.5, 0.3, 9), (-1.0, 0.1, 9), (0.2, 0.4, 9), (5, 0.0, 9)]
    start = a_start(blocks, types=["Stem", "Block", "Block", "Block", "Net"], loss=(0.5, 0.01))
    found = bench("judged").metrics(start)
    assert found == {
        "forward": pytest.approx((0.2 - 0.5, 0.5)),
        "gradient": pytest.approx((0.5 - 0.2, 0.5)),
        "loss": pytest.approx((math.log(0.5 / math.log(2)), 0.02)),
        "worst layer": (-1.0, 0.1),
    }


@pytest.mark.parametrize(
    ("auto", "he", "listed"),
    [
        ((0.5, 0.0), (0.1, 0.0), 0.4),
        ((-0.5, 0.0), (0.1, 0.0), 0.4),  # distance from 1, either way
        ((0.5, 0.1), (-0.1, 0.1), None),  # 0.4 is below 3 x 0.141
        ((0.105, 0.0), (0.1, 0.0), None),  # by half a per cent
        ((0.1, 0.0), (0.5, 0.0), None),
    ],
)
def test_auto_is_worse_where_another_start_is_nearer_to_one(bench, auto, he, listed):
    found = bench("judged").worse({"auto": {"loss": auto}, "he": {"loss": he}}, "loss")
    assert found == ({} if listed is None else {"he": pytest.approx(listed)})
    assert bench("judged").worse({"he": {"loss": he}}, "loss") == {}
    assert bench("judged").nearer(he, auto) == pytest.approx(listed or 0.0)


# The page -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(bench):
    """A page of three models: one well predicted, one missed, one held out; one did not run."""
    exact, poor = [0.0, 0.0, 0.0], [0.0, 0.5, 0.9]
    flat = [(0.0, 0.01, 0.0)] * 3

    def outcome(values, **more):
        starts = {
            start: a_start(flat, seeds)
            for start, seeds in {"auto": 48, "torch": 48, "he": 4, "lsuv": 4}.items()
        }
        starts["auto"]["gradient"] = [(0.3, 0.01, 0.0, 0.01), *starts["he"]["gradient"][1:]]
        made = {
            f"{start}/{label}": a_prediction(values, **more)
            for start in ("auto", "torch")
            for label in ("closed form", "lazy draws")
        }
        made["auto/lazy draws"]["layers"]["0"]["gradient"][0] = 0.3  # as it was measured
        return an_outcome(starts, made)

    page, zoo = bench("moments_page"), bench("zoo")
    good, bad, short = zoo.MODELS[:3]
    outcomes = {
        good: outcome(exact, loss=(0.7, 0.0)),
        bad: outcome(poor, loss=(0.8, 0.0), tier="monte carlo"),
        short: outcome(exact, loss=(0.7, 0.0)),
        zoo.FRESH[0]: outcome(exact, loss=(0.7, 0.0)),
        "hf:gpt2": "took more than 9 s",
    }
    outcomes[short]["starts"]["torch"]["seeds"] = 3
    outcomes[short]["predictions"]["torch/closed form"] = {"error": "TypeError: a | b"}
    proved = {"hf:bert": {"findings": [["error", "IN101", "NaN", ["w"], "bad | worse"]]}}
    text = page.page(outcomes, proved)
    return text, (good, bad, short, zoo.FRESH[0])


def rows_of(text, heading):
    """The rows of the table under a heading, as cells."""
    part = re.split(r"^#+ ", text, flags=re.M)
    (own,) = [one for one in part if one.startswith(heading)]
    tables = [line for line in own.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in tables]


def test_the_page_has_every_table(written):
    text, _ = written
    headings = re.findall(r"^#+ (.*)$", text, flags=re.M)
    assert headings == [
        "Moments: predicted, measured, and side by side", "What was reached", "How to read it",
        "Prediction against measurement", "Fresh models (1)", "By tier", "Misses (12)",
        "Models whose median block is off (8)", "No prediction", "Side by side",
        "How often auto is nearer", "Where auto is worse (4)",
        "Check errors under `auto`", "Fewer than 48 seeds (1 models)", "Every model", "Not run",
    ]  # fmt: skip
    for line in text.splitlines():
        assert "nan" not in line.lower() or "NaN" in line
    for heading in headings[3:]:
        rows = rows_of(text, heading)
        assert len({len(row) for row in rows if row}) <= 1, heading


def test_the_page_says_first_what_was_reached(written):
    text, _ = written
    goals = {row[0]: row[1:] for row in rows_of(text, "What was reached")}
    median, high = (
        goals[f"second moment of a block's output: {word}"]
        for word in ("median", "95th percentile")
    )
    assert median == ["5%", *["holds: 0.0% (torch)"] * 2, *["holds: 0.0% (torch)"] * 2]
    assert high[0] == "25%"
    assert high[1] == "**misses**: 146.0% (torch), 4 of 15 numbers beyond"
    assert high[3:] == ["holds: 0.0% (torch)"] * 2
    loss = goals["first loss, where the logits' standard deviation is at most 1: every"]
    assert loss[1] == "**misses**: 14.3% (torch), 2 of 5 numbers beyond"
    assert goals["models of all families, measured and predicted"] == ["80", "4"]
    assert goals["starts measured over 48 seeds"] == ["where affordable", "7 of 8"]
    assert goals["figures in which another start is better than `auto`"] == ["listed", "4 of 16"]
    assert goals["measured numbers of blocks without a prediction"] == ["listed", "0"]


def test_a_figure_above_its_goal_may_lie_within_the_noise(bench):
    page = bench("moments_page")
    noisy = a_start([(0.0, 0.2, 0.0)] * 3, 48)
    made = {"auto/closed form": a_prediction([0.0, 0.3, 0.4])}
    outcomes = {"m": an_outcome({"auto": noisy}, made)}
    found = page._verdict(outcomes, "closed form", "forward", 0.25, 0.95)
    assert found == "within noise: 49.2% (auto), 0 of 3 numbers beyond"
    assert page._verdict(outcomes, "lazy draws", "forward", 0.25, 0.95) == "-"


def test_of_missed_losses_the_largest_is_told_and_not_the_noisiest(bench):
    page = bench("moments_page")
    noisy, sharp = (a_start([(0.0, 0.0, 0.0)], 48, loss=(0.7, error)) for error in (0.3, 0.0))
    outcomes = {
        name: an_outcome({"auto": start}, {"auto/closed form": a_prediction([0.0], loss=loss)})
        for name, start, loss in (("a", noisy, (1.4, 0.0)), ("b", sharp, (0.77, 0.0)))
    }
    found = page._verdict(outcomes, "closed form", "loss", 0.02, 1.0)
    assert found == "**misses**: 10.0% (auto), 1 of 2 numbers beyond"


def test_the_page_counts_misses_by_three_errors_and_by_t(written):
    text, _ = written
    rows = {tuple(row[:3]): row[3:] for row in rows_of(text, "Prediction against")}
    assert rows["closed form", "auto", "forward"] == [
        "3", "9", "0.0% (5%)", "146.0% (25%)", "2 / 2", "1 / 1",
    ]  # fmt: skip
    assert rows["closed form", "torch", "loss"][:2] == ["2", "2"]
    fresh = {tuple(row[:3]): row[3:] for row in rows_of(text, "Fresh models")}
    assert fresh["lazy draws", "torch", "gradient"][:2] == ["1", "2"]
    tiers = {tuple(row[:2]): row[2:] for row in rows_of(text, "By tier")}
    assert tiers["forward", "monte carlo"][0] == "12"
    assert tiers["forward", "closed form"][-1] == "0 / 0"


def test_the_page_lists_misses_with_their_reasons(bench, written):
    text, (_, bad, short, fresh) = written
    head, _, *rows = rows_of(text, "Misses")
    one = dict(zip(head, rows[0], strict=True))
    assert one["model"] == f"`{bad}`"
    assert one["where"] == "1 and 1 more" if one["what"] == "forward" else "1"
    assert {row[-1] for row in rows} == {"not known"}
    by_what = {row[3]: row for row in rows if row[1] == "auto"}
    assert by_what["gradient"][6] == f"{math.exp(0.5):.3g}"
    assert by_what["forward"][6] == f"{math.exp(0.5):.3g}"
    off = rows_of(text, "Models whose")[2:]
    assert {row[0] for row in off} == {f"`{bad}`"}
    assert {(row[3], row[4]) for row in off} == {("forward", "1.65"), ("gradient", "1.65")}
    ((*_, why),) = rows_of(text, "No prediction")[2:]
    assert why == "TypeError: a \\| b"
    assert rows_of(text, "Fewer than 48")[2:] == [[f"`{short}`", "48", "3", ""]]
    assert rows_of(text, "Not run")[2:] == [["`hf:gpt2`", "took more than 9 s"]]
    assert bench("moments_page")._named(fresh) == f"`{fresh}` (fresh)"


@pytest.mark.parametrize(
    ("noise", "freedom", "again", "more", "reason"),
    [
        (0.0, math.inf, None, {}, "not known"),
        (0.3, 3.0, None, {}, "within noise by t"),
        (0.0, math.inf, None, {"model": "net:a"}, "shared weights"),
        (0.0, math.inf, None, {"model": "net:a", "start": "own"}, "not known"),
        (0.1, 3.0, 0.2, {}, "too few passes for its spread: over many 1.22, 3 std errors 16.2%"),
        (0.1, 3.0, 0.4, {}, "not known; over many passes 1.49, 3 std errors 16.2%"),
        (0.1, 3.0, 0.4, {"model": "net:a"},
         "shared weights; over many passes 1.49, 3 std errors 16.2%"),
    ],
)  # fmt: skip
def test_a_reason_is_what_was_shown(bench, monkeypatch, noise, freedom, again, more, reason):
    page, judged = bench("moments_page"), bench("judged")
    monkeypatch.setattr(page, "REASONS", {"net:a/auto/forward": "shared weights"})
    first = a_miss(judged, 1.0, 0.0, noise, freedom, **more)
    second = None if again is None else a_miss(judged, again, 0.0, 0.05)
    assert page._reason(judged.Missed("closed form", first, 1, second)) == reason


def test_the_page_says_how_often_auto_is_nearer(bench):
    page = bench("moments_page")
    sharp, high = [(0.0, 0.01, 0.0)] * 3, [(0.0, 0.01, 0.0), (0.9, 0.01, 0.0), (0.0, 0.01, 0.0)]
    runs = {"level": a_start(sharp), "steep": a_start(high)}
    outcomes = {
        "a": an_outcome({"auto": runs["level"], "torch": runs["steep"], "own": runs["level"]}, {}),
        "b": an_outcome({"auto": runs["steep"], "torch": runs["level"]}, {}),
        "c": an_outcome({"auto": runs["level"], "torch": runs["steep"]}, {}),
    }
    rows = [line for line in page._duels(outcomes) if line.startswith("| forward")]
    assert rows == ["| forward | 2 / 1 of 3 | 0 / 0 of 1 | 0 / 0 of 0 | 0 / 0 of 0 |"]


def test_the_page_says_which_libraries_keep_all_their_weights(bench):
    page = bench("moments_page")
    start = a_start([(0.0, 0.1, 0.0)] * 2)
    drawn = a_prediction([0.0, 0.0], passes=4)
    drawn["layers"]["0"]["forward"][1] = 0.1
    outcomes = {
        "a": an_outcome({"own": start}, {"own/lazy draws": a_prediction([0.0, 0.0], passes=4)}),
        "b": an_outcome({"own": start}, {"own/lazy draws": drawn}),
        "c": an_outcome({"auto": start}, {"auto/lazy draws": drawn}),
    }
    told = " ".join(" ".join(page._reading(outcomes)).split())
    assert "in 1 of 2 models nothing else is left" in told


def test_the_page_lists_where_auto_is_worse(written):
    text, models = written
    head, _, *rows = rows_of(text, "Where auto")
    assert head == ["model", "figure", "auto", "torch", "library", "He", "LSUV", "factor"]
    assert rows[0] == [
        f"`{models[0]}`", "gradient", "1.35", "**1**", "-", "**1**", "**1**", "1.35",
    ]  # fmt: skip
    side = {row[0]: row[1:] for row in rows_of(text, "Side by side")}
    assert side["gradient, all models"] == ["4", "x1.35", "x1", "", "x1", "x1"]
    assert "gradient, models of libraries" not in side


@pytest.mark.parametrize(
    ("log", "text"),
    [(0.0, "0.0%"), (math.log(1.254), "25.4%"), (math.log(3), "200.0%"), (math.log(50), "x50"),
     (1e4, f"x{math.exp(600):.3g}")],
)  # fmt: skip
def test_an_error_is_a_percentage_and_a_large_one_a_factor(bench, log, text):
    assert bench("moments_page")._percent(log) == text


# Models held out ------------------------------------------------------------------------------


def test_fresh_models_are_of_no_family_of_the_others(bench):
    zoo, proved = bench("zoo"), bench("proved")
    assert len(zoo.FRESH) == len(set(zoo.FRESH)) >= 24
    assert not set(zoo.FRESH) & {*zoo.MODELS, *proved.SAMPLE.read_text().splitlines()}


@pytest.mark.parametrize("number", range(6))
def test_fresh_nets_have_a_loss_and_gradients(bench, number):
    zoo, fresh, measured = bench("zoo"), bench("fresh"), bench("measured")
    net = zoo.build(f"net:{list(fresh.FRESH_NETS)[number]}")
    layers, loss = measured._pass(net.model, net)
    assert loss == pytest.approx(math.log(int(net.targets.max()) + 1), rel=0.25)
    assert layers[""].grad_second_moment > 0
    assert all(one.grad is None for one in net.model.parameters())
