"""A tag for each word: how words are cut into tokens, schemes of spans, the loss at first tokens, and answers."""

import jax
import numpy as np
import pytest

from fmjax.architecture import TransformerConfig
from fmjax.objectives import Tagging
from fmjax.step import place
from tests.objectives import tasks

LABELS, T = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC"), 16
NER, POS = Tagging(labels=LABELS), Tagging(labels=("NOUN", "VERB"), scheme=None)
WORDS = ["Romeo", "wherefore", "art", "thou"]
SENTENCE = WORDS, ["B-PER", "O", "O", "B-LOC"]


@pytest.mark.parametrize("name", ["bert", "roberta", "xlm_roberta", "albert", "t5"])
def test_words_are_tokenised_as_hugging_face_tokenises_them(name):
  """Its rule is a backend's `is_pretokenized`, for byte pairs with `add_prefix_space`."""
  made = tasks.tokenizer(name)
  words = [" " + word for word in WORDS] if name == "roberta" else WORDS
  expected = made.backend.encode(words, is_pretokenized=True, add_special_tokens=False)
  ((example,),) = NER.layout(T, False).encoder.encode([SENTENCE], made)
  tokens, first, labels = example
  assert tokens.tolist() == expected.ids
  assert first.tolist() == [expected.word_ids.index(word) for word in range(4)]
  assert labels.tolist() == [1, 0, 0, 3]


def test_the_first_token_of_a_word_has_its_tag_and_no_other_has_weight():
  (row,) = tasks.read(NER, [SENTENCE], T)
  batch = tasks.batch_of(NER, [row], T)
  bert = tasks.tokenizer("bert")
  pieces = [bert.encode(word) for word in WORDS]
  first = np.cumsum([1, *map(len, pieces[:-1])])
  assert max(map(len, pieces)) > 1
  assert np.flatnonzero(batch["weights"][0]).tolist() == first.tolist()
  assert batch["labels"][0][first].tolist() == [1, 0, 0, 3]
  assert batch["tokens"][0][: NER.extent({"tokens": len(row["tokens"])})].tolist() == [
    bert.special["cls"], *sum(pieces, []), bert.special["sep"]]  # fmt: skip
  nothing = tasks.batch_of(NER, [tasks.nothing(NER, T)], T)
  assert not any(nothing[name].any() for name in ("segments", "labels", "weights"))
  assert NER.layout(T, False).encoder.texts(SENTENCE) == ["Romeo wherefore art thou"]


def test_iob1_becomes_bio():
  objective = Tagging(labels=LABELS, scheme="iob1")
  tags = ["I-PER", "I-PER", "B-PER", "I-LOC", "O", "I-LOC", "I-LOC"]
  (row,) = tasks.read(objective, [(["a"] * 7, tags)], T)
  assert [LABELS[n] for n in row["labels"]] == ["B-PER", "I-PER", "B-PER", "B-LOC", "O", "B-LOC", "I-LOC"]


def test_what_is_refused():
  assert str(tasks.refused(NER, (["a", "b"], ["O"]))) == "unequal columns"
  assert "2 words and 1 tags" in tasks.refused(NER, (["a", "b"], ["O"])).labels["got"]
  error = tasks.refused(NER, (["a", "b", "c"], ["O", "B-PER", "I-LOC"]))
  assert error.labels["got"] == "I-LOC after B-PER, at word 2" and error.labels["expected"] == "B-LOC there"
  assert "after the beginning, at word 0" in tasks.refused(NER, (["a"], ["I-PER"])).labels["got"]
  assert "B-PER" in tasks.refused(NER, (["a"], ["B-PRE"])).labels["fix"]
  assert "'words' holds no list" in str(tasks.refused(NER, ("a b", ["O", "O"])))
  assert tasks.read(NER, [(["a", "b", "c"], [1, 2, 0])], T)[0]["labels"].tolist() == [1, 2, 0]


def test_laws():
  assert tasks.laws_of(Tagging) == ["labels"] * 2
  assert tasks.laws_of(Tagging, labels=("O", "B-PER", "PER")) == ["labels"]
  assert tasks.laws_of(Tagging, labels=("O", "B-PER", "I-LOC")) == ["labels"]
  assert tasks.laws_of(Tagging, labels=("B-PER", "I-PER")) == ["labels"]
  assert Tagging(labels=("O", "X"), scheme=None).judged_by == ("accuracy",)
  fits = dict(kind="encoder", V=100, head="token", classes=5)
  for change, wrong in ((dict(), []), (dict(kind="decoder"), ["kind"]), (dict(classes=4), ["head"])):
    assert [field for field, *_ in NER.model_laws(TransformerConfig(**{**fits, **change}))] == wrong


def test_the_loss_is_that_of_plain_numpy_on_eight_devices_too(on):
  records = [(WORDS[: 1 + n % 4], SENTENCE[1][: 1 + n % 4]) for n in range(8)]
  rows = tasks.read(NER, records, T)
  batch, model = tasks.batch_of(NER, rows, T), tasks.model_of(NER)
  params, sums, predicted = tasks.same_on_eight_devices(NER, model, batch, on)
  with on():
    logp_BTC = tasks.log_softmax(NER.scores(model, params, place(batch)))
  b, t = np.nonzero(batch["weights"])
  assert sums["weight"] == len(b) == 20
  assert sums["loss"] == pytest.approx(-logp_BTC[b, t, batch["labels"][b, t]].sum(), rel=1e-5)
  answers = NER.answers(rows, predicted, tasks.tokenizer("bert"))
  right = sum(x == y for one in answers for x, y in zip(one["predicted"], one["expected"], strict=True))
  assert right == sums["accuracy"]
  wide = tasks.batch_of(NER, [*rows, *[tasks.nothing(NER, T)] * 2], 24)
  tasks.padding_changes_nothing(NER, model, params, batch, wide, on)


def test_answers_have_a_tag_for_each_word():
  """Words that the length cuts off, and words without a token, are outside."""
  rows = tasks.read(NER, [(["romeo", "\u200d", "art", "thou"], ["B-PER", "O", "O", "B-LOC"])], T)
  sizes = [len(tasks.tokenizer("bert").encode(word)) for word in ("romeo", "\u200d", "art", "thou")]
  assert sizes[1] == 0
  length = 2 + sizes[0] + sizes[2]  # no room for the last
  p_BTC = jax.nn.one_hot(np.full((1, length), 3), 5)
  (answer,) = NER.answers(rows, dict(probabilities=np.asarray(p_BTC)), tasks.tokenizer("bert"))
  assert answer["predicted"] == ["B-LOC", "O", "B-LOC", "O"]
  assert answer["expected"] == ["B-PER", "O", "O", "B-LOC"]
  assert answer["words"] == ["romeo", "", "art", "thou"]
  rows = tasks.read(POS, [(["art", "thou"], ["VERB", "NOUN"])], T)
  (answer,) = POS.answers(rows, dict(probabilities=np.zeros((1, 3, 2))), tasks.tokenizer("bert"))
  assert answer["predicted"] == ["NOUN", ""]
