import math
import re

import pytest

from fmjax.report.charts import POINTS, SIDE, Axis, Cloud, Curve, chart, number, reliability, scatter, smooth, thin

CURVE = [(step, 2 + 5 / step) for step in range(1, 5001)]


def places(d):
  return [(float(x), float(y)) for x, y in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", d)]


@pytest.mark.parametrize("low, high", [(0, 1), (0, 3000), (1.93, 2.07), (-5, 17), (0, 3e-4), (1e9, 3e9)])
def test_ticks_are_round_ordered_and_inside(low, high):
  ticks = Axis(low, high).ticks(5)
  assert 3 <= len(ticks) <= 7
  at = [percent for percent, _ in ticks]
  assert at == sorted(at) and at[0] >= 0 and at[-1] <= 100 and len({label for _, label in ticks}) == len(ticks)


@pytest.mark.parametrize("points", [[(120, 2.0)], [(1, 2.0), (3, 1.0)], [(7, 2.0), (8, 1.0)]])
def test_ticks_of_few_steps_are_whole(points):
  (linear, _) = chart("Loss", "", [Curve("a", 0, points)]).views
  assert len(linear["x_ticks"]) > 1 and all(label.isdigit() for _, label in linear["x_ticks"])


def test_a_log_axis_has_the_powers_of_ten():
  assert Axis(1, 10_000, log=True).ticks(5) == [(0, "1"), (25, "10"), (50, "100"), (75, "1k"), (100, "10k")]


def test_numbers_on_an_axis():
  assert [number(n) for n in (0, 1000, 1500, 0.25, 0.0003, 2.0, -3.0, 0.1 + 0.2)] == [
    "0", "1k", "1.5k", "0.25", "3e-4", "2", "-3", "0.3"]  # fmt: skip


def test_thinning_hides_no_spike_and_no_gap():
  points = [(step, 1.0) for step in range(10_000)]
  points[5003], points[7001] = (5003, 90.0), (7001, math.nan)
  kept = thin(points, Axis(0, 10_000).place)
  assert len(kept) <= 1.1 * POINTS and (5003, 90.0) in kept and any(math.isnan(value) for _, value in kept)
  assert [step for step, _ in kept] == sorted({step for step, _ in kept})


def test_smoothing_keeps_a_line_resists_a_spike_and_leaves_gaps():
  line = [(step, 3.0 * step) for step in range(300)]
  assert all(a == pytest.approx(b, abs=3 * 5 + 1e-9) for (_, a), (_, b) in zip(smooth(line), line))
  assert smooth(line)[:290] == [(step, pytest.approx(value)) for step, value in line[:290]]
  flat = [(step, 1.0) for step in range(300)]
  flat[100], flat[200] = (100, 1e6), (200, math.nan)
  values = [value for _, value in smooth(flat)]
  assert math.isnan(values[200]) and max(value for value in values if value == value) == 1.0


def test_every_curve_is_drawn_in_both_views_and_answers_the_pointer():
  curves = [Curve(f"run {n}", n, [(step, n + value) for step, value in CURVE]) for n in range(3)]
  made = chart("Loss", "nats", curves)
  assert [view["log"] for view in made.views] == [False, True]
  for view in made.views:
    assert [path["color"] for path in view["paths"]] == [0, 1, 2]
    for path in view["paths"]:
      across = [x for x, _ in places(path["d"])]
      assert across == sorted(across) and across[0] < 10 and 970 < across[-1] <= SIDE
  assert [curve["label"] for curve in made.hover["curves"]] == ["run 0", "run 1", "run 2"]


def test_a_falling_curve_falls_and_a_gap_is_not_bridged():
  points = [(1, 4.0), (2, 3.0), (3, math.nan), (4, 2.0), (5, 1.0)]
  (path,) = chart("Loss", "", [Curve("a", 0, points)]).views[0]["paths"]
  heights = [y for _, y in places(path["d"])]
  assert heights == sorted(heights) and len(heights) == 4  # SVG's y grows downwards
  assert path["d"].count("M") == 2


@pytest.mark.parametrize("points", [[(1, 2.0)], [(7, 2.0), (8, 2.0)], [(0, 0.0)], [(3, math.inf), (4, 1.0)]])
def test_a_run_that_hardly_began_has_a_chart(points):
  for from_zero in (False, True):
    for view in chart("Loss", "", [Curve("a", 0, points)], from_zero=from_zero).views:
      assert view["y"].low < view["y"].high and view["x"].low < view["x"].high and places(view["paths"][0]["d"])


def test_no_finite_point_is_no_chart():
  assert chart("Loss", "", [Curve("a", 0, [(1, math.nan)]), Curve("b", 1, [])]) is None


def test_the_linear_view_lets_the_first_fall_out_and_the_log_view_keeps_it():
  linear, log = chart("Loss", "", [Curve("a", 0, CURVE)]).views
  assert linear["y"].high < 3 and log["y"].high > 7


def test_a_band_goes_along_its_highs_and_back_along_its_lows():
  spread = [(step, 1.0 - step / 100, 3.0 + step / 100) for step in range(1, 51)]
  made = chart(
    "Loss", "", [Curve("a", 0, [(step, 2.0) for step, _, _ in spread], spread=spread)], form="{:.2f}".format
  )
  band, line = made.views[0]["paths"]
  assert band["kind"] == "band" and line["kind"] == "line" and band["d"].endswith("Z") and band["d"].count("M") == 1
  points = places(band["d"])
  across = [x for x, _ in points]
  assert len(points) == 100 and across[:50] == sorted(across[:50]) and across[50:] == across[49::-1]
  (middle,) = {y for _, y in places(line["d"])}
  assert all(y < middle for _, y in points[:50]) and all(y > middle for _, y in points[50:])
  assert made.hover["curves"][0]["texts"][9] == "2.00 ± 1.10"


def test_a_wide_band_leaves_the_curves_room():
  points = [(step, 2.0 + step / 100) for step in range(1, 51)]
  made = chart("Loss", "", [Curve("a", 0, points, spread=[(step, value - 90, value + 90) for step, value in points])])
  y = made.views[0]["y"]
  assert y.high - y.low < 3 * 0.49 and y.low < 2.01 < 2.5 < y.high


def test_the_reliability_of_bins():
  assert reliability([0.0] * 15, [0.0] * 15, [0.0] * 15, "") is None
  correct, confidence, examples = [0.0] * 15, [0.0] * 15, [0.0] * 15
  correct[14], confidence[14], examples[14] = 30.0, 38.0, 40.0
  correct[9], confidence[9], examples[9] = 9.0, 6.5, 10.0
  made = reliability(correct, confidence, examples, "R")
  assert [text for _, _, text, _ in made.labels] == ["10", "40"]
  bars, over, under, _ = made.paths

  def tops(path):
    return [float(top) * 1.08 for top in re.findall(r"V([\d.]+)", path["d"])]

  assert tops(bars) == pytest.approx([1080 - 650, 1080 - 750], abs=1)  # the lesser of confidence and share
  assert tops(over) == pytest.approx([1080 - 950], abs=1) and tops(under) == pytest.approx([1080 - 900], abs=1)


def test_a_scatter_has_every_point_and_a_mean_with_its_interval():
  clouds = [Cloud("a", 0, [(1e3, 0.5), (1e3, 0.7)], (1e3, 0.6, -9.0, 9.0)), Cloud("b", 1, [(1e6, 0.8)])]
  made = scatter("Accuracy", "", "parameters", clouds, log=True)
  assert [(path["kind"], path["color"], path["d"].count("M")) for path in made.paths] == [
    ("faint", 0, 2), ("whisker", 0, 1), ("dots", 0, 1), ("dots", 1, 1)]  # fmt: skip
  (whisker,) = [path["d"] for path in made.paths if path["kind"] == "whisker"]
  low, high = re.fullmatch(r"M[\d.]+ ([\d.-]+)V([\d.-]+)", whisker).groups()
  assert float(low) > SIDE and float(high) < 0  # beyond the picture, which is the points'
  (a, _, _, _), (b, _, _, _) = made.labels
  assert a < 50 < b and [text for _, _, text, _ in made.labels] == ["a", "b"]
  level = scatter("", "", "", [Cloud("", 0, [(0.0, 1.0), (5.0, 4.0)])], diagonal=True)
  assert level.paths[0]["kind"] == "level"
