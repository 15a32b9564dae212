"""Conversations: templates, which tokens are the assistant's, what is refused, and answers that end with a turn."""

import json

import jax
import jinja2
import numpy as np
import pytest

from fmjax import data
from fmjax.__main__ import main
from fmjax.architecture import TransformerConfig
from fmjax.corpus import DataConfig
from fmjax.data.packing import plan_examples
from fmjax.data.rows import PackedExampleRows
from fmjax.metrics import read
from fmjax.objectives import Instruction, conversations
from fmjax.objectives.instruction import ConversationEncoder
from fmjax.objectives.objective import Examples
from fmjax.step import place
from tests.objectives import tasks

CHAT, PAIR = Instruction(), Instruction(turns="pair")
TURNS = [
  dict(role="system", content="Be brief."),
  dict(role="user", content="Who art thou?"),
  dict(role="assistant", content="Romeo."),
  dict(role="user", content="Wherefore?"),
  dict(role="assistant", content="I know not."),
]
TEXT = (
  "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWho art thou?<|im_end|>\n"
  "<|im_start|>assistant\nRomeo.<|im_end|>\n<|im_start|>user\nWherefore?<|im_end|>\n"
  "<|im_start|>assistant\nI know not.<|im_end|>\n"
)
TOLD = ["Romeo.<|im_end|>\n", "I know not.<|im_end|>\n"]


def test_the_assistants_turns_are_told_from_where_it_would_begin():
  text, turns = conversations.rendered(conversations.CHATML, TURNS, {})
  assert text == TEXT
  assert [text[slice(*turn)] for turn in turns] == TOLD


@pytest.mark.parametrize("name", ["bytes", "gpt2", "llama", "t5"])
def test_tokens_of_the_assistants_turns_have_weight(name):
  made = tasks.tokenizer(name)
  (row,) = tasks.read(CHAT, [(TURNS,)], 400, name)
  assert row["tokens"].tolist() == [*made.encode(TEXT), made.end] and row["told"][-1] == 1
  runs = np.split(np.arange(len(row["told"])), np.flatnonzero(np.diff(row["told"])) + 1)
  told = [made.decode(row["tokens"][run].tolist()) for run in runs if row["told"][run[0]]]
  assert len(told) == 2
  for one, expected in zip(told, TOLD):
    assert "".join(one.split()) == "".join(made.decode(made.encode(expected)).split())
  batch = tasks.batch_of(CHAT, [row], 400, name)
  size = len(row["tokens"]) - 1
  assert batch["tokens"][0, :size].tolist() == row["tokens"][:-1].tolist()
  assert batch["targets"][0, :size].tolist() == row["tokens"][1:].tolist()
  np.testing.assert_array_equal(batch["weights"][0, :size], row["told"][1:])
  assert not batch["weights"][0, size:].any() and CHAT.extent({"tokens": size + 1}) == size


def test_a_prompt_and_its_response_are_two_turns():
  (row,), (same,) = (
    tasks.read(PAIR, [("Who?", "Me.")], 64, "bytes"),
    tasks.read(CHAT, [([dict(role="user", content="Who?"), dict(role="assistant", content="Me.")],)], 64, "bytes"),
  )
  assert all(np.array_equal(row[name], same[name]) for name in row)
  assert ConversationEncoder().texts((TURNS,)) == [one["content"] for one in TURNS]
  assert ConversationEncoder("pair").texts(("a", "b")) == ["a", "b"]


def test_a_conversation_that_is_cut_keeps_its_beginning():
  (row,) = tasks.read(CHAT, [(TURNS,)], 64, "bytes")
  batch = tasks.batch_of(CHAT, [row], 64, "bytes")
  assert batch["tokens"][0].tolist() == row["tokens"][:64].tolist() and not batch["weights"].any()
  assert not tasks.batch_of(CHAT, [tasks.nothing(CHAT, 64)], 64, "bytes")["weights"].any()


def test_templates():
  marks = dict(bos_token="<s>", eos_token="</s>")
  template = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}{% generation %}"
    "{{ message['content'] | trim }}{{ eos_token }}{% endgeneration %}{% else %}[{{ message['content'] }}]"
    "{% endif %}{% if loop.index0 > 90 %}{% break %}{% endif %}{% endfor %}"
  )
  text, turns = conversations.rendered(template, TURNS[1:3], marks)
  assert text == "<s>[Who art thou?]Romeo.</s>" and [text[slice(*turn)] for turn in turns] == ["Romeo.</s>"]
  with pytest.raises(jinja2.TemplateError, match="turn 2 reads otherwise"):
    conversations.rendered("{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}", TURNS, {})
  with pytest.raises(jinja2.TemplateError, match="no system"):
    conversations.rendered("{{ raise_exception('no system') }}", TURNS, {})
  with pytest.raises(jinja2.TemplateError):  # the sandbox
    conversations.rendered("{{ messages.append(1) }}{{ ''.__class__.__mro__ }}", TURNS, {})
  assert conversations.compiled("{{ m | tojson }}").render(m={"a": "é<"}) == '{"a": "é<"}'
  assert conversations.compiled("{{ strftime_now is defined }}").render() == "False"


def test_a_published_tokenizer_brings_its_template():
  made = tasks.tokenizer("llama")
  template = "{% for m in messages %}{{ bos_token }}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}" \
             "{% if add_generation_prompt %}{{ bos_token }}assistant: {% endif %}"  # fmt: skip
  own = type(made)(made.files | {"chat_template.jinja": template.encode()}, made.model)
  ((example,),) = ConversationEncoder().encode([(TURNS[1:3],)], own)
  tokens, told, *_ = example
  bos, end = own.special["bos"], own.end
  assert np.count_nonzero(tokens == bos) == 2 and np.count_nonzero(tokens == end) == 2 and tokens[-1] == end
  assert "Romeo." in own.decode(tokens[told == 1].tolist()) and "thou" not in own.decode(tokens[told == 1].tolist())
  ((other,),) = ConversationEncoder(template="{{ messages[0].content }}" * 2 + "{% for m in messages[1:] %}"
                                    "{{ m.content }}{% endfor %}").encode([(TURNS[1:3],)], own)  # fmt: skip
  assert own.decode(other[0].tolist()).count("Who art thou?") == 2


def test_what_is_refused():
  for messages in ("x", [1], [dict(role="user")], [dict(role="user", content=["x"])], None):
    assert "no list of turns" in str(tasks.refused(CHAT, (messages,), name="bytes"))
  assert "no turn of the assistant" in str(tasks.refused(CHAT, (TURNS[:2],), name="bytes"))
  assert "'response' holds no text" in str(tasks.refused(PAIR, ("a", None), name="bytes"))
  strict = Instruction(template="{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}")
  error = tasks.refused(strict, (TURNS,), name="bytes")
  assert error.labels["got"] == "no system"
  with pytest.raises(Exception) as caught:
    tasks.read(strict, [(TURNS[1:],), (TURNS,)], 64, "bytes")
  assert caught.value.number == 1


def test_laws():
  assert tasks.laws_of(Instruction, template="{% for %}") == ["template"]
  assert [key for key, *_ in CHAT.model_laws(TransformerConfig(kind="encoder", V=9))] == ["kind"]


def test_an_answer_that_the_end_of_a_turn_has_too_is_told_from_it():
  made = tasks.tokenizer("bytes")
  (row,) = tasks.read(PAIR, [("How?", "end")], 200, "bytes")
  (answer,) = PAIR.answers([row], dict(tokens=[np.array(made.encode("end<|im_end|>\nmore"))]), made)
  assert answer == dict(predicted="end", expected="end")


@pytest.mark.parametrize("name", ["bytes", "gpt2"])
def test_an_answer_ends_with_the_turn(name):
  """Whether the turn's end is spelled, as here, or a token."""
  made = tasks.tokenizer(name)
  (row,) = tasks.read(CHAT, [(TURNS,)], 400, name)
  prompt = CHAT.prompt(row, made.vocabulary(), 400)
  assert made.decode(prompt.tolist()) == TEXT[: TEXT.index(TOLD[1])]
  assert CHAT.prompt(row, made.vocabulary(), 5).tolist() == prompt[-5:].tolist()
  for said in ("Nay.<|im_end|>\nmore", "Nay.", "Nay.<|im_end|>\n<|im_start|>user"):
    tokens = np.array([*made.encode(said), made.end, *made.encode("behind")])
    (answer,) = CHAT.answers([row], dict(tokens=[tokens]), made)
    assert answer == dict(predicted="Nay.", expected="I know not.")


def test_the_loss_sees_the_turns_alone_on_eight_devices_too(on):
  """What others say has no part in it but as what is read."""
  rows = tasks.read(CHAT, [(TURNS[1:3],)] * 7 + [(TURNS[1:],)], 96, "bytes")
  batch = tasks.batch_of(CHAT, rows, 96, "bytes")
  model = tasks.model_of(CHAT, "bytes", kind="decoder", max_positions=96)

  def sums(mesh, batch):
    with on(**mesh):
      params = jax.jit(model.init)(jax.random.key(0))
      return jax.device_get(tasks.sums_of(params, place(batch), model, CHAT))

  alone = sums({}, batch)
  assert alone["weight"] == sum(row["told"][1:97].sum() for row in rows)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), alone, sums(dict(fsdp=4, tensor=2), batch))
  other = dict(batch, targets=np.where(batch["weights"] > 0, batch["targets"], 7))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), alone, sums({}, other))


def packed(folder, count, length):
  """A prepared data set of conversations of many lengths, packed in its train split."""
  rng = np.random.default_rng(0)
  rows = [
    dict(prompt="why " * int(rng.integers(0, 6)), response=f"answer {number} " + "so " * int(rng.integers(0, 12)))
    for number in range(count)
  ]
  (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  config = DataConfig(source="jsonl", path=str(folder / "rows.jsonl"), tokenizer="bytes", sequence_length=length,
                      packed=True, cache=str(folder / "cache"))  # fmt: skip
  return data.prepare(config, PAIR)


def test_packed_rows_have_each_conversation_once(tmp_path):
  length = 1024
  prepared = packed(tmp_path, 400, length)
  (train,), (evaluation,) = prepared.splits["train"], prepared.splits["eval"]
  rows = train.read(list(range(train.examples)))
  found = [one for row in rows for one in np.split(row["tokens"], np.cumsum(row["pieces"])[:-1])]
  ends = np.cumsum(np.load(train.tokens.folder / "train-tokens.lengths.npy"))
  (stream,) = train.streams["tokens"].read([(0, int(ends[-1]))])
  assert sorted(map(bytes, found)) == sorted(map(bytes, np.split(stream, ends[:-1])))
  sizes = [int(row["pieces"].sum() - len(row["pieces"])) for row in rows]
  assert max(sizes) <= length and np.mean(sizes) > 0.9 * length and train.examples < len(ends) / 2
  told = float(train.in_words().rpartition(", ")[2].removesuffix("% full")) / 100
  assert told == pytest.approx(sum(sizes) / (length * len(rows)), abs=1e-3)
  assert train.sizes(0)["tokens"] == rows[0]["pieces"].sum() and "full" not in evaluation.in_words()
  assert "pieces" not in evaluation.read([0])[0]  # whose answers are generated one by one


def test_the_packed_loss_is_that_of_each_conversation_alone(tmp_path, on):
  prepared = packed(tmp_path, 60, 400)
  (train,) = prepared.splits["train"]
  rows = train.read(list(range(8)))
  assert min(len(row["pieces"]) for row in rows) > 1
  alone = []
  for row in rows:
    cuts = np.cumsum(row["pieces"])[:-1]
    alone += [dict(tokens=a, told=b) for a, b in zip(np.split(row["tokens"], cuts), np.split(row["told"], cuts))]
  model = tasks.model_of(PAIR, "bytes", kind="decoder", max_positions=400)
  vocabulary = prepared.tokenizer.vocabulary()
  found = []
  for records in (rows, alone):
    every = [PAIR.transform(one, None, vocabulary=vocabulary, length=400) for one in records]
    batch = {name: np.stack([one[name] for one in every]) for name in every[0]}
    with on():
      params = jax.jit(model.init)(jax.random.key(0))
      found.append(jax.device_get(tasks.sums_of(params, place(batch), model, PAIR)))
  assert found[0]["weight"] == sum(row["told"].sum() for row in rows)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), *found)


def test_a_conversation_longer_than_a_row_is_cut_and_one_of_a_token_is_left_out(tmp_path):
  rows = PackedExampleRows(
    Examples(ConversationEncoder(), 4), {"tokens": np.array([9, 10, 13])}, **plan_examples(np.array([9, 1, 3]), 4)
  )
  assert rows.count == 2 and sorted(rows.ranges(0) + rows.ranges(1)) == [("tokens", (0, 5)), ("tokens", (10, 13))]


@pytest.mark.slow
def test_a_packed_run_trains_evaluates_and_answers(tmp_path, monkeypatch):
  prepared = packed(tmp_path, 200, 128)
  monkeypatch.setenv("FMJAX_CACHE", str(tmp_path / "cache"))
  tree = dict(
    objective=dict(name="instruction", turns="pair"), model=dict(D=32, L=1, N=2),
    data=dict(source="jsonl", path=str(tmp_path / "rows.jsonl"), tokenizer="bytes", sequence_length=128, packed=True),
    optimizer=dict(learning_rate=1e-2, schedule="constant"), train=dict(steps=20, batch_size=8, eval_every=10),
  )  # fmt: skip
  (tmp_path / "recipe.json").write_text(json.dumps(tree))
  assert main(["data", f"--config={tmp_path}/recipe.json"]) == 0
  assert main(["train", f"--config={tmp_path}/recipe.json", f"--workdir={tmp_path}/run"]) == 0
  losses = [row["eval/loss"] for row in read(tmp_path / "run" / "metrics.jsonl") if "eval/loss" in row]
  assert losses[-1] < losses[0]
  assert main(["eval", f"--workdir={tmp_path}/run"]) == 0
  answers = read(tmp_path / "run" / "predictions" / "eval-20.jsonl")
  assert len(answers) == prepared.splits["eval"][0].examples
  assert main(["data", f"--config={tmp_path}/recipe.json", "--config.data.buckets=[64]"]) == 78
