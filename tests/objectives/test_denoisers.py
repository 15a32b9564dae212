"""Laws of UL2's mixture: each denoiser has its share, its mode, its spans, and room in the batch's one shape."""

import numpy as np
import pytest

from fmjax.config import from_config_dict, to_dict
from fmjax.laws import Wrong
from fmjax.objectives import Denoisers
from fmjax.objectives.denoisers import TABLE, Denoiser
from fmjax.objectives.objective import Windows
from fmjax.objectives.span_corruption import counts, lengths
from tests.objectives import examples
from tests.objectives.examples import END, FIRST, SPECIAL, keeps_its_promise, text
from tests.objectives.test_span_corruption import inverse

MODES = {SPECIAL[f"mode_{mode}"]: mode for mode in "rsx"}


def test_each_denoiser_has_its_share_and_gives_the_text_back():
  tokens, found = text(40), {(one.mode, *counts(40, one.noise)): 0 for one in TABLE}
  assert len(found) == len(TABLE) == 7
  rng, vocabulary = np.random.default_rng(0), examples.vocabulary()
  for draw in range(100_000):
    example = Denoisers().transform(dict(tokens=tokens), rng, vocabulary=vocabulary, length=40)
    source, target = example["source_tokens"], example["targets"]
    told = int(example["weights"].sum()) - 1  # without `end`
    spans = np.count_nonzero((target > SPECIAL["mode_x"]) & (target < FIRST))
    found[MODES[source[0]], told - spans, spans] += 1
    if draw < 2000:
      size = example["source_segments"].sum() - 1
      assert source[size] == target[told] == END
      np.testing.assert_array_equal(inverse(source[1:size], target[:told]), tokens)
  np.testing.assert_allclose(np.array(list(found.values())) / 100_000, 1 / 7, rtol=0.04)


def test_a_row_fits_every_denoiser_and_is_the_longest():
  objective = Denoisers()
  row = objective.layout(512, False)
  sizes = np.array([lengths(row.stride, one.noise) for one in TABLE])
  assert row == Windows(567) and sizes[:, 0].max() + 1 == 512
  assert objective.sizes(512) == (512, sizes[:, 1].max())
  modes = ("mode_r", "mode_s", "mode_x")
  assert objective.needs(512) == ("pad", *modes, *(f"sentinel_{n}" for n in range(95)))


@pytest.mark.parametrize("tokens", [567, 100, 2, 1, 0])
def test_the_shapes_promised_are_those_of_a_batch(tokens):
  for one in TABLE:
    example = keeps_its_promise(Denoisers(denoisers=(one,) * 2), dict(tokens=text(tokens)), 512)
    assert bool(example["weights"].any()) == (tokens > 0) and example["source_segments"].any()


def test_a_config_holds_them():
  tree = dict(model=dict(kind="encoder_decoder", V=99), objective=dict(name="ul2"))
  config = from_config_dict(tree)
  assert config.objective.denoisers == TABLE and from_config_dict(to_dict(config)) == config
  for fields in (dict(denoisers=()),):
    with pytest.raises(Wrong):
      Denoisers(**fields)
  with pytest.raises(Wrong):
    Denoiser("r", 1.5, 3.0)
