"""Log-likelihoods of continuations are those of the plain forward pass, alone or in a batch, on any mesh."""

import jax
import numpy as np
import pytest

import fmjax
from fmjax import spec
from fmjax.config import TransformerConfig, from_config_dict
from fmjax.data import tokenizers
from fmjax.errors import FmjaxError
from fmjax.models import Model
from fmjax.scoring import likelihood as scoring
from tests.scoring import folders

LENGTH = 20


@pytest.fixture(scope="module")
def found(tmp_path_factory):
  with jax.set_mesh(one()):
    return fmjax.from_pretrained(folders.write("gpt2", tmp_path_factory.mktemp("folders") / "gpt2"))


def one():
  return jax.make_mesh((1,) * 6, ("data", "fsdp", "tensor", "context", "expert", "stage"), devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def requests():
  """Contexts and continuations of all lengths; some are too long for the window."""
  rng = np.random.default_rng(0)
  lengths = [(1, 1), (1, 20), (3, 2), (7, 9), (16, 4), (17, 4), (30, 1), (40, 20), (5, 5), (19, 1), (20, 1)]
  return [tuple(rng.integers(1, 77, n).tolist() for n in pair) for pair in lengths]


def plain(found, context, continuation, length):
  """One row, no padding: (sum of log-probabilities, greedy) from all logits."""
  text = (context + continuation)[-length - 1 :]
  logits = found([text[:-1]]).logits[0].astype(np.float64)
  rows = logits[-len(continuation) :]
  log_p = rows - np.log(np.sum(np.exp(rows), 1, keepdims=True))
  picked = log_p[np.arange(len(continuation)), continuation]
  return picked.sum(), bool((rows.argmax(1) == continuation).all())


def score(found, requests, rows=None):
  answers = dict(scoring.loglikelihoods(scoring.language_model(found), requests, LENGTH, rows))
  return [answers[number] for number in range(len(requests))]


def close(answers, expected):
  assert [value for value, _ in answers] == pytest.approx([value for value, _ in expected], rel=1e-5, abs=2e-5)
  assert [greedy for _, greedy in answers] == [greedy for _, greedy in expected]


def test_they_are_those_of_the_plain_forward_pass(found, requests):
  # What greedy decoding gives after a context must be found greedy, and with its last token changed must not.
  for context, _ in requests[2:5]:
    tokens = found.generate([context], max_new_tokens=3, eos_token_id=None)[0, len(context) :].tolist()
    requests = [*requests, (context, tokens), (context, [*tokens[:-1], (tokens[-1] + 1) % 77])]
  expected = [plain(found, *request, LENGTH) for request in requests]
  assert [greedy for _, greedy in expected[-6:]] == [True, False] * 3
  close(score(found, requests), expected)


@pytest.mark.parametrize("rows, chunk_bytes", [(1, 1 << 20), (3, 1 << 20), (None, 4096)])
def test_a_batch_and_its_chunks_change_nothing(found, requests, rows, chunk_bytes, monkeypatch):
  expected = score(found, requests)
  monkeypatch.setattr(scoring, "CHUNK_BYTES", chunk_bytes)
  assert chunk_bytes > 4096 or scoring.chunks_of(11, 16, 128) > 1
  close(score(found, requests, rows), expected)


def test_a_mesh_changes_nothing(found, requests, on, tmp_path):
  with on(data=2, fsdp=4):
    many = fmjax.from_pretrained(folders.write("gpt2", tmp_path / "gpt2"))
  close(score(many, requests), score(found, requests))


def test_a_vocabulary_in_shards_changes_nothing(requests, on):
  config = TransformerConfig(V=99, D=16, L=2, N=4, H=4, F=24, max_positions=LENGTH, tied=False, scan_layers=False)
  model, answers = Model(config), []
  for mesh in (dict(data=1), dict(data=2, fsdp=2, tensor=2)):
    with on(**mesh):
      params = jax.jit(model.init)(jax.random.key(0))
      params = jax.tree.map(lambda x: 3 * x, params)  # answers that differ by much from token to token
      subject = scoring.LanguageModel(model, params, None, jax.sharding.get_mesh(), LENGTH, ())
    answers.append([answer for _, answer in sorted(scoring.loglikelihoods(subject, requests, LENGTH))])
  assert jax.typeof(params["embed"]["outputs"]).sharding.spec[0] == "tensor"
  close(answers[1], answers[0])


def test_what_cannot_be_scored_is_refused(found):
  for request in (([], [1]), ([1], []), ([1], [1] * (LENGTH + 1))):
    with pytest.raises(FmjaxError, match="cannot be scored"):
      score(found, [request])


def test_a_text_begins_as_its_model_has_read_texts(found, tmp_path):
  assert len(scoring.language_model(found).encode("A")) == 1
  folder = folders.write("llama", tmp_path / "llama")
  (folder / "generation_config.json").write_text('{"eos_token_id": [7, 75, 2]}')
  with jax.set_mesh(one()):
    found = fmjax.from_pretrained(folder)
  subject = scoring.language_model(found)
  end = subject.tokenizer.end
  assert subject.encode("A")[0] == end and len(subject.encode("A")) == 2  # the template's
  assert subject.positions == 96 and subject.ends == (end, 7, 2)


def test_a_run_reads_a_text_as_one_of_its_documents(one_device):
  tokenizer = tokenizers.Bytes()
  config = from_config_dict(dict(model=dict(V=257, D=8, L=1, N=1, F=8), data=dict(sequence_length=LENGTH)))
  model = Model(config.model)
  params = jax.jit(model.init)(jax.random.key(0))
  subject = scoring.language_model(spec.Trained(config, model, params, tokenizer, one_device, {}))
  assert subject.encode("A") == [256, 65]
  assert subject.positions == LENGTH and subject.ends == (256,)


def test_chunks_divide_the_width():
  for rows, width, V in ((8, 96, 50304), (1, 1, 128), (64, 1024, 50304), (1, 20, 10**9)):
    chunks = scoring.chunks_of(rows, width, V)
    assert width % chunks == 0
    assert chunks == width or rows * width // chunks * V * 4 <= scoring.CHUNK_BYTES


def test_rows_fill_the_mesh_and_no_more(on):
  with on(data=2, fsdp=2):
    assert scoring.batch_rows(1, 128, None) == 4
    assert scoring.batch_rows(5, 128, None) == 8
    assert scoring.batch_rows(10**6, 128, None) == 4 * scoring.BATCH_TOKENS // 128
    assert scoring.batch_rows(10**6, 128, 6) == 8
