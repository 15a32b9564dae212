"""Texts from prompts: the same alone, in a batch, on a mesh, streamed or not, and with few compilations."""

import functools

import jax
import numpy as np
import pytest

from fmjax.architecture import TransformerConfig
from fmjax.data.tokenizers import Bytes
from fmjax.decode import beam, step
from fmjax.decode.generate import generate, stream
from fmjax.decode.prompts import bucket
from fmjax.errors import FmjaxError
from fmjax.models import Model

V = 41
SMALL = dict(V=V, D=16, L=2, N=2, F=24, init_std=0.5, max_positions=64)
DECODER = Model(TransformerConfig(**SMALL))
TRANSLATOR = Model(TransformerConfig(**SMALL, kind="encoder_decoder"))
PROMPTS = [[7, 3, 9, 1, 4], [2, 5], [8, 8, 6]]


@pytest.fixture(scope="module")
def params(on):
  with on():
    return {model: jax.jit(model.init)(jax.random.key(1)) for model in (DECODER, TRANSLATOR)}


@functools.partial(jax.jit, static_argnames="model")
def every_logit(params, batch, *, model):
  return jax.nn.log_softmax(model.logits(params, model.apply(params, batch).hidden))


def log_probabilities(model, params, texts, source=None):
  """Rows [texts, V] of the next token, from full forward passes of one shape."""
  tokens = np.zeros((4, 16), np.int32)
  for row, text in enumerate(texts):
    tokens[row, : len(text)] = text
  batch = dict(tokens=tokens)
  if source is not None:
    batch |= dict(source_tokens=np.tile(np.int32(source), (4, 1)))
  z_BTV = np.asarray(every_logit(params, batch, model=model))
  return [z_BTV[row, len(text) - 1, :V] for row, text in enumerate(texts)]


def test_greedy_takes_the_likeliest_of_a_full_forward_pass(params, on):
  with on():
    rows = generate(DECODER, params[DECODER], PROMPTS, max_new_tokens=6)
    texts = [list(prompt) for prompt in PROMPTS]
    for _ in range(6):
      for text, row in zip(texts, log_probabilities(DECODER, params[DECODER], texts)):
        text.append(int(row.argmax()))
  assert [row[-len(text) :].tolist() for row, text in zip(rows, texts)] == texts
  assert rows.shape == (3, 11) and rows[1, :3].tolist() == [0, 0, 0]


@pytest.mark.parametrize("model", [DECODER, TRANSLATOR], ids=["decoder", "encoder_decoder"])
def test_beams_find_what_a_plain_search_finds(model, params, plain_search, on):
  how = dict(length_penalty=0.7, early_stopping=True)
  with on():
    options = dict(max_new_tokens=8, num_beams=3, eos_token_id=[11, 13, 17], decoder_start_token_id=1, **how)
    rows = generate(model, params[model], PROMPTS[:1] if model is TRANSLATOR else PROMPTS, **options)
    for row, prompt in zip(rows, PROMPTS):
      source, first = (prompt, [1]) if model is TRANSLATOR else (None, prompt)
      near = functools.partial(log_probabilities, model, params[model], source=source)
      text = plain_search(near, first, W=3, new=8, ends=(11, 13, 17), **how)
      start = rows.shape[1] - 8 - len(first)
      length = len(text)
      assert row[max(start, 0) :][:length].tolist() == text


@pytest.mark.parametrize(
  "options", [dict(), dict(do_sample=True, seed=3, top_p=0.9), dict(num_beams=3, length_penalty=2.0)], ids=str
)
def test_a_row_is_the_same_alone_in_a_batch_and_on_a_mesh(options, params, on):
  options = dict(options, max_new_tokens=6, eos_token_id=11, pad_token_id=0)
  with on():
    alone = [generate(DECODER, params[DECODER], [prompt], **options)[0].tolist() for prompt in PROMPTS]
    batch = generate(DECODER, params[DECODER], PROMPTS, **options)
  with on(data=2, fsdp=2, tensor=2):
    meshed = generate(DECODER, jax.jit(DECODER.init)(jax.random.key(1)), PROMPTS, **options)
  np.testing.assert_array_equal(meshed, batch)
  for row, prompt, single in zip(batch, PROMPTS, alone):
    text = row[5 - len(prompt) :].tolist()
    assert text[: len(single)] == single and not any(text[len(single) :])


def test_padding_on_either_side_is_the_same_prompt(params, on):
  right = np.array([[7, 3, 9, 1, 4], [2, 5, 0, 0, 0], [8, 8, 6, 0, 0]])
  with on():
    rows = generate(DECODER, params[DECODER], PROMPTS, max_new_tokens=3)
    np.testing.assert_array_equal(
      generate(DECODER, params[DECODER], right, (right > 0).astype(int), max_new_tokens=3), rows
    )
    np.testing.assert_array_equal(generate(DECODER, params[DECODER], right, pad_token_id=0, max_new_tokens=3), rows)


def test_seeds_give_rows_their_own_texts(params, on):
  same = [PROMPTS[0]] * 3
  options = dict(do_sample=True, max_new_tokens=12)
  with on():
    rows = generate(DECODER, params[DECODER], same, seed=(5, 6, 5), **options)
    assert (rows[0] == rows[2]).all() and (rows[0] != rows[1]).any()
    np.testing.assert_array_equal(generate(DECODER, params[DECODER], same, seed=6, **options)[0], rows[1])


def test_an_end_ends_a_row_and_the_others_go_on(params, on):
  with on():
    free = generate(DECODER, params[DECODER], PROMPTS, max_new_tokens=9)
    end = int(free[0, 5 + 3])
    rows = generate(DECODER, params[DECODER], PROMPTS, max_new_tokens=9, eos_token_id=[end, 40], pad_token_id=0)
    for row, whole in zip(rows, free):
      new = whole[5:].tolist()
      kept = new[: new.index(end) + 1] if end in new else new
      assert row[5:].tolist()[: len(kept)] == kept and not row[5 + len(kept) :].any()
    assert generate(DECODER, params[DECODER], PROMPTS[:1], max_new_tokens=9, eos_token_id=end).shape[1] <= 9


def test_a_stream_is_what_generate_gives(params, on):
  options = dict(max_new_tokens=5, do_sample=True, temperature=0.7, top_k=5, min_p=0.01)
  with on():
    rows = generate(DECODER, params[DECODER], PROMPTS, **options)
    np.testing.assert_array_equal(
      np.stack(list(stream(DECODER, params[DECODER], PROMPTS, **options)), 1), rows[:, 5:]
    )


def test_a_stop_string_ends_a_row(params, on):
  model = Model(TransformerConfig(V=257, D=16, L=1, N=2, F=24, init_std=0.5, max_positions=64))
  tokens = Bytes()
  with on():
    weights = jax.jit(model.init)(jax.random.key(0))
    whole = generate(model, weights, [[65]], max_new_tokens=10)[0, 1:].tolist()
    stop = tokens.decode(whole[2:4])
    cut = generate(model, weights, [[65]], max_new_tokens=10, stop_strings=stop, tokenizer=tokens)[0, 1:].tolist()
    with pytest.raises(FmjaxError, match="tokenizer"):
      generate(model, weights, [[65]], stop_strings="x")
  assert whole[: len(cut)] == cut and stop in tokens.decode(cut) and stop not in tokens.decode(cut[:-1])


def test_a_text_longer_than_the_window_goes_on_from_its_end(params, on):
  with on():
    long = generate(DECODER, params[DECODER], [[3, 1, 4], [1, 5]], max_new_tokens=12, window=8)
    text = [3, 1, 4]
    for _ in range(12):
      text.append(int(log_probabilities(DECODER, params[DECODER], [text[-8:]])[0].argmax()))
    one = generate(DECODER, params[DECODER], [[1, 5]], max_new_tokens=12, window=8)
  assert long[0].tolist() == text
  assert long[1, 1:].tolist() == one[0].tolist()


def test_a_new_prompt_or_option_compiles_nothing(params, on):
  with on():
    options = dict(do_sample=True, temperature=0.5, top_p=0.8, seed=1, max_new_tokens=20)
    generate(DECODER, params[DECODER], PROMPTS, **options)
    sizes = step.start._cache_size(), step.step._cache_size()
    options |= dict(temperature=0.9, top_p=0.5, seed=2, max_new_tokens=17)
    generate(DECODER, params[DECODER], [[1], list(range(14)), [3] * 9], **options)
    assert (step.start._cache_size(), step.step._cache_size()) == sizes
    options = dict(num_beams=2, max_new_tokens=12, eos_token_id=3)
    generate(DECODER, params[DECODER], PROMPTS, **options)
    sizes = beam.start._cache_size(), beam.step._cache_size()
    generate(DECODER, params[DECODER], [[1], [2] * 12, [3] * 9], **options | dict(length_penalty=3.0))
    assert (beam.start._cache_size(), beam.step._cache_size()) == sizes


def test_lengths_fall_into_few_buckets():
  lengths = range(1, 1025)
  assert all(length <= bucket(length) <= max(16, 1.25 * length + 15) for length in lengths)
  assert len({bucket(length) for length in lengths}) <= 4 * 7
  assert {bucket(length, parts=1) for length in lengths} == {16, 32, 64, 128, 256, 512, 1024}


BAD = {
  "too long": (dict(input_ids=[[1] * 65]), "65 tokens, the model 64 positions"),
  "no room": (dict(input_ids=[[1] * 60], max_new_tokens=6), "leaves no room for 6"),
  "unknown token": (dict(input_ids=[[V]]), "does not know"),
  "empty": (dict(input_ids=[[1], []]), "row 1 of the prompt is empty"),
  "all padding": (dict(input_ids=[[1, 1]], attention_mask=[[0, 0]]), "row 0 of the prompt is empty"),
  "no ids": (dict(input_ids=[[0.5]]), "no batch of token ids"),
  "mask": (dict(input_ids=[[1, 2]], attention_mask=[[1]]), "differ in shape"),
  "option": (dict(input_ids=[[1]], num_beam=3), "did you mean 'num_beams'"),
  "max_length": (dict(input_ids=[[1, 2, 3]], max_length=3), "max_new_tokens=0"),
  "seeds": (dict(input_ids=[[1]], do_sample=True, seed=(1, 2)), "seed"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_message(name, params, on):
  call, text = BAD[name]
  with on(), pytest.raises(FmjaxError, match=text) as error:
    generate(DECODER, params[DECODER], **call)
  assert error.value.status == 64
  with on(), pytest.raises(FmjaxError, match="token to start from"):
    generate(TRANSLATOR, params[TRANSLATOR], [[1]])


def test_the_last_token_needs_no_position(params, on):
  with on():
    assert generate(DECODER, params[DECODER], [[1] * 60], max_new_tokens=5).shape == (1, 65)
    assert generate(DECODER, params[DECODER], [[1] * 60], max_length=65, min_length=63).shape == (1, 65)
    new = generate(TRANSLATOR, params[TRANSLATOR], [[1] * 50, [2]], max_length=4, decoder_start_token_id=5)
    assert new.shape == (2, 4) and new[:, 0].tolist() == [5, 5]
    options = dict(decoder_start_token_id=5, decoder_input_ids=[[7], [8]], max_new_tokens=1)
    given = generate(TRANSLATOR, params[TRANSLATOR], [[1], [2]], **options)
    assert given[:, :2].tolist() == [[5, 7], [5, 8]]
