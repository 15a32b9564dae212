"""Labelled records come to the batch as an Encoder made them: whole and once, from any source, at any length."""

import csv
import dataclasses
import gzip
import json
import pathlib
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash

from fmjax import data
from fmjax.cleaning import Cleaning
from fmjax.config import fits, from_config_dict
from fmjax.corpus import DataConfig
from fmjax.data import documents, inspection, streams, tokenising
from fmjax.data import tokenizers as tk
from fmjax.data.loader import JOINED
from fmjax.errors import FmjaxError
from fmjax.laws import Wrong
from fmjax.objectives import Contrastive, SequenceToSequence
from fmjax.objectives.objective import Examples
from tests.data.labelled import Graded, Grading

T = 32


def records_of(count=120, seed=0) -> list[dict]:
  """Texts of up to three pieces, each with its number in it, and grades that no short decimal writes."""
  choose, made = random.Random(seed), []
  for number in range(count):
    text = f"{number:03d}" + "".join(choose.choices("ab c!", k=int(choose.triangular(0, 80, 0))))
    made.append(dict(text=text, grade=choose.gauss(0, 10) ** 3, id=number))
  return made


RECORDS = records_of()


def jsonl(folder, records=RECORDS, name="a.jsonl"):
  (folder / name).write_text("".join(json.dumps(one) + "\n" for one in records))
  return folder / name


def config(path, source="jsonl", **fields):
  folder = path.parent if path.suffix else path
  fields = dict(tokenizer="bytes", sequence_length=T, cache=str(folder / "cache"), eval_fraction=0.2) | fields
  return DataConfig(source=source, path=str(path), **fields)


def rows(prepared, split="train", source=0):
  own = prepared.splits[split][source]
  return own.read([*range(own.examples)])


def read_back(prepared, split) -> dict:
  """{number of the record: (its text, its grade)}, of its pieces put together."""
  found = {}
  for row in rows(prepared, split):
    cls, *tokens = row["tokens"].tolist()
    assert cls == prepared.tokenizer.special["cls"] and len(row["tokens"]) <= T
    assert all(array.dtype == np.int32 for array in row.values())
    found.setdefault("texts", []).append((prepared.tokenizer.decode(tokens), float(row["grade"].view(np.float32)[0])))
  texts, made = found["texts"], {}
  for text, grade in texts:
    if text[:3].isdigit():
      number = int(text[:3])
      made[number] = text, grade
    else:
      made[number] = made[number][0] + text, grade
  return made


def contents(folder) -> dict:
  return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def folder_of(prepared, source=0) -> pathlib.Path:
  return prepared.splits["train"][source].tokens.folder


def digest(batch) -> str:
  hasher = xxhash.xxh3_128()
  for name in sorted(batch):
    array = np.ascontiguousarray(batch[name])
    hasher.update(repr((name, array.dtype.str, array.shape)).encode() + array.tobytes())
  return hasher.hexdigest()


# --- values


def write_jsonl(folder):
  return jsonl(folder), "jsonl"


def write_gz(folder):
  (folder / "a.jsonl.gz").write_bytes(gzip.compress(jsonl(folder).read_bytes()))
  return folder / "a.jsonl.gz", "jsonl"


def write_csv(folder):
  with open(folder / "a.csv", "w", newline="") as file:
    writer = csv.DictWriter(file, ["id", "grade", "text"])
    writer.writeheader()
    writer.writerows(RECORDS)
  return folder / "a.csv", "csv"


def write_tsv(folder):
  lines = ["grade\ttext"] + [f"{one['grade']!r}\t{one['text']}" for one in RECORDS]
  (folder / "a.tsv").write_text("\n".join(lines))
  return folder / "a.tsv", "csv"


def write_parquet(folder):
  pq.write_table(pa.Table.from_pylist(RECORDS), folder / "a.parquet", row_group_size=17)
  return folder / "a.parquet", "parquet"


def write_parallel(folder):
  for name in ("text", "grade"):
    (folder / f"a.{name}").write_text("".join(f"{one[name]}\n" for one in RECORDS))
  return folder / "a.{}", "parallel"


@pytest.mark.parametrize("write", [write_jsonl, write_gz, write_csv, write_tsv, write_parquet, write_parallel])
def test_every_value_of_every_record_is_in_one_split(tmp_path, write):
  path, source = write(tmp_path)
  columns = ("text", "grade") if source == "parallel" else None
  prepared = data.prepare(config(path, source, columns=columns), Grading())
  train, held = read_back(prepared, "train"), read_back(prepared, "eval")
  assert len(held) > 10 and not train.keys() & held.keys()
  expected = {one["id"]: (one["text"], float(np.float32(one["grade"]))) for one in RECORDS}
  assert train | held == expected


def test_an_array_may_be_empty_and_each_keeps_its_own(tmp_path):
  prepared = data.prepare(config(jsonl(tmp_path)), Grading())
  found = [*rows(prepared, "train"), *rows(prepared, "eval")]
  texts = {one["id"]: one["text"] for one in RECORDS}
  counted = 0
  for row in found:
    text = prepared.tokenizer.decode(row["tokens"][1:].tolist())
    if text[:3].isdigit():
      assert row["marks"].tolist() == [place for place, sign in enumerate(texts[int(text[:3])]) if sign == "!"]
      counted += not len(row["marks"])
  assert counted > 10


def test_the_facts_count_records_texts_and_examples(tmp_path):
  records = [*RECORDS, dict(text=None, grade=1.0), dict(text=None, grade="none")]
  prepared = data.prepare(config(jsonl(tmp_path, records)), Grading())
  facts = prepared.facts
  assert sum(facts[split]["documents"] for split in ("train", "eval")) == len(RECORDS)
  assert sum(facts[split]["bytes"] for split in ("train", "eval")) == sum(len(one["text"]) for one in RECORDS)
  for split in ("train", "eval"):
    found = rows(prepared, split)
    assert facts[split]["examples"] == len(found) > facts[split]["documents"]
    assert facts[split]["tokens"] == sum(len(row["tokens"]) for row in found)
  assert facts["sources"]["jsonl"]["dropped"] == dict(unused=2)
  assert facts["baselines"] == {} and prepared.bytes_per_token is None
  words = prepared.splits["train"][0].in_words()
  assert f"{facts['train']['documents']} documents, {facts['train']['bytes']:,} bytes" in words
  assert words.endswith("; left out: 2 unused")


def test_an_empty_text_is_the_encoders_to_judge(tmp_path):
  records = [dict(text="", grade=number) for number in range(30)]
  prepared = data.prepare(config(jsonl(tmp_path, records)), Grading())
  assert prepared.facts["train"]["documents"] + prepared.facts["eval"]["documents"] == 30
  assert {len(row["tokens"]) for row in rows(prepared)} == {1}


# --- preparation


def test_many_parts_and_batches_hold_what_one_does_and_so_does_a_second_time(tmp_path, monkeypatch):
  path = jsonl(tmp_path)
  one = data.prepare(config(path), Grading())
  again = data.prepare(config(path, cache=str(tmp_path / "again")), Grading())
  assert folder_of(one).name == folder_of(again).name and contents(folder_of(one)) == contents(folder_of(again))
  monkeypatch.setattr(documents, "PART_BYTES", 500)
  for size, chunk in ((7, 1 << 20), (1000, 60)):
    monkeypatch.setattr(tokenising, "RECORDS", size)
    monkeypatch.setattr(tokenising, "CHUNK", chunk)
    many = data.prepare(config(path, cache=str(tmp_path / f"many-{size}")), Grading())
    assert len(many.splits["train"][0].tokens.facts["columns"]["train-tokens"]["part_tokens"]) > 10
    for split in ("train", "eval"):
      for row, other in zip(rows(one, split), rows(many, split), strict=True):
        assert all(row[name].tolist() == other[name].tolist() for name in row)


def test_a_batch_of_records_is_bounded(tmp_path, monkeypatch):
  seen = []

  def encode(self, records, tokenizer, real=Graded.encode):
    seen.append((len(records), sum(len(text) for text, _ in records)))
    return real(self, records, tokenizer)

  monkeypatch.setattr(Graded, "encode", encode)
  monkeypatch.setattr(tokenising, "RECORDS", 9)
  monkeypatch.setattr(tokenising, "CHUNK", 200)
  data.prepare(config(jsonl(tmp_path)), Grading())
  assert max(count for count, _ in seen) == 9 and max(size for _, size in seen) < 200 + 84
  assert sum(count for count, _ in seen) == len(RECORDS)


class Killed(BaseException):
  """A kill at a moment of the test's choice."""


@pytest.mark.parametrize("moment", [0, 3, 10])
def test_a_killed_preparation_goes_on_with_the_parts_that_are_left(tmp_path, monkeypatch, moment):
  path = jsonl(tmp_path)
  monkeypatch.setattr(documents, "PART_BYTES", 500)
  cleaned = dict(cleaning=Cleaning(exact_duplicates=True))
  whole = data.prepare(config(path, cache=str(tmp_path / "whole"), **cleaned), Grading())
  encoded = []

  def killed(self, records, tokenizer, real=Graded.encode):
    if len(encoded) == moment:
      raise Killed
    encoded.append(len(records))
    return real(self, records, tokenizer)

  with monkeypatch.context() as patch:
    patch.setattr(Graded, "encode", killed)
    with pytest.raises(Killed):
      data.prepare(config(path, **cleaned), Grading())
    done, moment = sum(encoded), 10**6
    data.prepare(config(path, **cleaned), Grading())
  assert sum(encoded) == len(RECORDS), "what was done is not done again"
  made = data.prepare(config(path, **cleaned), Grading())
  assert contents(folder_of(made)) == contents(folder_of(whole)) and done < len(RECORDS)


@dataclasses.dataclass(frozen=True)
class Other(Grading):
  """Whose tokenizer has its special tokens in another order, or whose pieces have another length."""

  order: tuple[str, ...] = ("cls", "pad")
  own: int | None = None

  def needs(self, length):
    return self.order

  def layout(self, length, packed):
    return Examples(Graded(self.own or length))


def test_the_folder_is_that_of_the_encoder_and_its_tokenizer(tmp_path):
  path = jsonl(tmp_path)
  made = {
    name: folder_of(data.prepare(config(path, **fields), objective)).name
    for name, objective, fields in (
      ("one", Grading(), {}),
      ("same", Other(), dict(buckets=(8,))),
      ("longer", Other(own=T + 1), {}),
      ("special", Other(order=("pad", "cls")), {}),
      ("trained", Grading(), dict(tokenizer="wordpiece", vocab_size=100)),
    )
  }
  assert made["one"] == made["same"] and len({*made.values()}) == 4


def test_the_vocabulary_has_what_the_encoder_used(tmp_path):
  prepared = data.prepare(config(jsonl(tmp_path)), Grading())
  ids = np.concatenate([row["tokens"] for row in rows(prepared)])
  assert prepared.facts["vocab_size"] == prepared.tokenizer.vocab_size == 259 > ids.max() >= 257
  assert data.Batches(prepared, "train", 4, 0).vocabulary["cls"] == ids[0]


def test_a_tokenizer_is_trained_on_what_the_encoder_says(tmp_path):
  path = jsonl(tmp_path)
  prepared = data.prepare(config(path, tokenizer="characters"), Grading())
  assert prepared.tokenizer.characters == "".join(sorted({*"".join(one["text"] for one in RECORDS)}))
  trained = data.prepare(config(path, tokenizer="wordpiece", vocab_size=100), Grading())
  texts = [*read_back(prepared, "train")]
  own = tk.train("wordpiece", [RECORDS[number]["text"] for number in texts], 100).with_special(("cls", "pad"))
  assert trained.tokenizer.fingerprint == own.fingerprint


def test_cleaning_looks_at_the_texts_of_a_record(tmp_path):
  twice = [*RECORDS, *({**one, "grade": 5.0} for one in RECORDS[:10])]
  cleaning = Cleaning(exact_duplicates=True, min_characters=10)
  prepared = data.prepare(config(jsonl(tmp_path, twice), cleaning=cleaning), Grading())
  short = sum(len(one["text"]) < 10 for one in RECORDS)
  assert short and prepared.facts["sources"]["jsonl"]["dropped"] == dict(duplicate=10, short=short)


BROKEN = [dict(text="fine", grade=1.5)] * 3 + [dict(text="not", grade="high")]


def refuse_jsonl(folder):
  return jsonl(folder, BROKEN), "jsonl", f"{folder / 'a.jsonl'} at byte {3 * len(json.dumps(BROKEN[0]) + '.')}"


def refuse_csv(folder):
  (folder / "a.csv").write_text('text,grade\n"fi\nne",1\n\nfine,2\nnot,high\n')
  return folder / "a.csv", "csv", f"{folder / 'a.csv'} line 6"


def refuse_parquet(folder):
  pq.write_table(pa.Table.from_pylist([{**one, "grade": str(one["grade"])} for one in BROKEN]), folder / "a.parquet")
  return folder / "a.parquet", "parquet", f"{folder / 'a.parquet'} row 3"


def refuse_parallel(folder):
  (folder / "a.text").write_text("a\nb\nc\n")
  (folder / "a.grade").write_text("1\nhigh\n3\n")
  return folder / "a.{}", "parallel", f"{folder / 'a.text'} line 2"


def refuse_text(folder):
  (folder / "b.txt").write_text("fine")
  (folder / "a.txt").write_text("not fine")
  return folder / "*.txt", "text", f"where: {folder / 'a.txt'}"


@pytest.mark.parametrize("write", [refuse_jsonl, refuse_csv, refuse_parquet, refuse_parallel, refuse_text])
def test_a_record_that_is_refused_is_named(tmp_path, write, monkeypatch):
  path, source, where = write(tmp_path)
  columns = ("text", "grade") if source == "parallel" else None
  if source == "text":
    monkeypatch.setattr(Graded, "columns", ("text",))
    monkeypatch.setattr(Graded, "one", lambda self, number, text, tokenizer, real=Graded.one: real(
      self, number, text, 1 if text == "fine" else text, tokenizer))  # fmt: skip
  monkeypatch.setattr(tokenising, "RECORDS", 2)
  with pytest.raises(FmjaxError) as caught:
    data.prepare(config(path, source, columns=columns, cache=str(tmp_path / "cache")), Grading())
  message = str(caught.value)
  assert caught.value.code == "DATA_BAD" and len(message.splitlines()) <= 6 and where in message, message
  for word in ("a grade is no number", "expected: a number such as 3.5", "fix:   mend or remove it"):
    assert word in message, message


def test_what_an_encoder_owes_is_looked_at(tmp_path, monkeypatch):
  for spoilt in (np.zeros(3), np.zeros(3, np.int64), np.zeros((1, 3), np.int32)):
    monkeypatch.setattr(Graded, "one", lambda self, *_, spoilt=spoilt: [(spoilt, spoilt, spoilt)])
    with pytest.raises(TypeError, match="'tokens' is .* not int32 of one axis"):
      data.prepare(config(jsonl(tmp_path)), Grading())


@pytest.mark.parametrize(
  "own, held, where, words",
  [
    (
      [dict(text=None, grade=1)] * 3,
      RECORDS,
      "train.jsonl",
      ["no text to train on", "3 documents left out", "unused"],
    ),
    (RECORDS, [dict(text=None, grade=1)] * 3, "dev.jsonl", ["no text to evaluate on", "3 documents left out"]),
  ],
)
def test_an_empty_split_is_told(tmp_path, own, held, where, words):
  path, other = jsonl(tmp_path, own, "train.jsonl"), jsonl(tmp_path, held, "dev.jsonl")
  with pytest.raises(FmjaxError) as caught:
    data.prepare(config(path, eval_path=str(other)), Grading())
  message = str(caught.value)
  assert caught.value.code == "DATA_BAD" and len(message.splitlines()) <= 6
  assert all(word in message for word in [f"where: {tmp_path / where}", "fix:", *words]), message


def test_an_objective_of_texts_still_says_that_a_column_has_none(tmp_path):
  with pytest.raises(FmjaxError, match=r"(?s)DATA_BAD  the column 'grade' holds no text.*a\.jsonl at byte 0"):
    data.prepare(config(jsonl(tmp_path), columns=("text", "grade")), Contrastive(unsupervised=False))
  with pytest.raises(FmjaxError, match=r"(?s)CONFIG  the objective reads 2 columns.*data\.columns"):
    data.prepare(config(jsonl(tmp_path), columns=("text",)), Grading())


# --- batches


def test_batches_are_what_was_promised_and_eval_ends_with_empty_rows(tmp_path):
  objective, path = Grading(), jsonl(tmp_path)
  prepared = data.prepare(config(path), objective)
  train = data.Batches(prepared, "train", 7, 0)
  assert train.lengths == (T,)
  for step in (0, 30):
    batch, promised = train[step], objective.batch_shapes(7, T)
    assert {n: (x.shape, x.dtype) for n, x in batch.items()} == {n: (x.shape, x.dtype) for n, x in promised.items()}
    assert batch["weights"].all()
  examples = prepared.facts["eval"]["examples"]
  B = 7 if examples % 7 else 8
  held = data.Batches(prepared, "eval", B, 0)
  last = held[held.end - 1]
  assert last["weights"].tolist() == [float(row < examples) for row in range(B * (held.end - 1), B * held.end)]
  assert not last["weights"].all() and not last["segments"][last["weights"] == 0].any()


BUCKETS = (4, 12, 20)
POOL = 8


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
  """Two sources of many lengths, prepared with shorter batches and without."""
  folder = tmp_path_factory.mktemp("buckets")
  mixture = {}
  for seed, name in enumerate("ab"):
    records = [dict(text=one["text"][: 1 + 3 * (n % 10)], grade=n) for n, one in enumerate(records_of(80, seed))]
    path = jsonl(folder, records, f"{name}.jsonl")
    mixture[name] = dict(source="jsonl", path=str(path), weight=seed + 1.0)
  tree = dict(mixture=mixture, tokenizer="bytes", sequence_length=T, cache=str(folder / "cache"), eval_fraction=0.2)
  changes = {}, dict(buckets=BUCKETS), dict(buckets=BUCKETS, pool=POOL)
  return [data.prepare(fits(tree | fields, DataConfig), Grading()) for fields in changes]


@pytest.mark.parametrize("split", ["train", "eval"])
def test_a_batch_is_the_shortest_that_holds_its_rows_which_stay_the_same(mixed, split):
  fixed, bucketed, _ = (data.Batches(prepared, split, 3, 5) for prepared in mixed)
  assert fixed.lengths == (T,) and bucketed.lengths == (*BUCKETS, T)
  seen = set()
  for step in range(40 if split == "train" else fixed.end):
    whole, batch = fixed[step], bucketed[step]
    length, need = batch["tokens"].shape[1], int(whole["segments"].sum(1).max())
    assert length == next(one for one in (*BUCKETS, T) if one >= need)
    seen.add(length)
    for name in whole:
      expected = whole[name][:, :length] if name in ("tokens", "segments") else whole[name]
      np.testing.assert_array_equal(batch[name], expected)
    assert bucketed.length(step) == length and fixed.length(step) == T
    if split == "train":
      assert fixed.records(step) == bucketed.records(step)
  assert len(seen) >= 3, "batches of several lengths"


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_the_rows_of_hosts_are_the_batch_whatever_its_length(mixed, hosts, pooled):
  B, shorter = 4, 0
  for split in ("train", "eval"):
    whole = data.Batches(mixed[1 + pooled], split, B, 1)
    slices = [slice(B * host // hosts, B * (host + 1) // hosts) for host in range(hosts)]
    own = [data.Batches(mixed[1 + pooled], split, B, 1, rows) for rows in slices]
    for step in range(30 if split == "train" else whole.end):
      parts = [batches[step] for batches in own]
      assert digest({n: np.concatenate([part[n] for part in parts]) for n in parts[0]}) == digest(whole[step])
      widest = [int(part["segments"].sum(1).max()) for part in parts]
      shorter += min(widest) <= BUCKETS[0] < max(widest)
  assert shorter or hosts == 1 or pooled, "a host's own rows would have fitted a shorter batch"


def test_a_pool_has_the_rows_of_its_batches_and_little_padding(mixed):
  B = 4
  plain, pooled = (data.Batches(prepared, "train", B, 1) for prepared in mixed[1:])
  padding, firsts = [], []
  epoch = plain.per_epoch
  assert epoch % POOL  # the last pool of an epoch is smaller
  for first in [once * epoch + first for once in range(3) for first in range(0, epoch, POOL)]:
    steps = range(first, min(first + POOL, (first // epoch + 1) * epoch))
    assert sorted(sum(map(plain.records, steps), [])) == sorted(sum(map(pooled.records, steps), []))
    found = [pooled[step]["segments"] for step in steps]
    sizes = sorted(([int(n) for n in one.sum(1)] for one in found), key=lambda one: (max(one), min(one)))
    assert all(max(one) <= min(other) for one, other in zip(sizes, sizes[1:]))  # sorted, then shuffled whole
    firsts.append(np.argmax([one.sum() for one in found]))
    padding.append([sum(one.size - one.sum() for one in every) for every in
                    (found, [plain[step]["segments"] for step in steps])])  # fmt: skip
  ours, before = np.sum(padding, 0)
  assert ours < 0.6 * before and len(set(firsts)) > 3  # the longest batch is anywhere in its pool


def test_a_pool_is_found_from_any_step_and_keeps_what_is_drawn_for_a_row(mixed):
  through, other = data.Batches(mixed[2], "train", 3, 5), data.Batches(mixed[2], "train", 3, 5)
  expected = {step: digest(through[step]) for step in range(40)}
  for step in (39, 0, 17, 8, 7, 16):
    assert digest(other[step]) == expected[step]
  plain = data.Batches(mixed[1], "train", 3, 5)
  wanted = {one for step in range(40) for one in plain.wanted(step, range(3))}
  assert wanted == {one for step in range(40) for one in through.wanted(step, range(3))}
  assert data.Batches(mixed[2], "train", 3, 6).records(0) != through.records(0)


def test_the_last_pool_of_a_mixture_that_ends_is_smaller(mixed):
  config = mixed[2].config
  ending = tuple(dataclasses.replace(one, epochs=1.0) for one in config.mixture)
  prepared = data.prepare(dataclasses.replace(config, mixture=ending), Grading())
  alone = dataclasses.replace(prepared, config=dataclasses.replace(prepared.config, pool=None))
  pooled, plain = (data.Batches(one, "train", 6, 0) for one in (prepared, alone))
  assert pooled.end % POOL
  found, expected = (
    [one for step in range(batches.end) for one in batches.wanted(step, range(6))] for batches in (pooled, plain)
  )
  assert sorted(found) == sorted(expected) and found != expected


def test_a_pool_needs_buckets():
  with pytest.raises(Wrong, match="pool=.*several lengths"):
    DataConfig(pool=4)


def test_a_length_is_known_without_reading_a_token(mixed, monkeypatch):
  batches = data.Batches(mixed[1], "train", 3, 5)
  expected = [batches[step]["tokens"].shape[1] for step in range(20)]
  monkeypatch.setattr(streams.Stream, "read", None)
  assert [data.Batches(mixed[1], "train", 3, 5).length(step) for step in range(20)] == expected


@dataclasses.dataclass(frozen=True)
class Short(SequenceToSequence):
  """Of pairs, whose batch is as long as the longer side."""

  def extent(self, sizes):
    return max(sizes["source"], sizes["target"]) + 1


def test_pairs_of_texts_have_shorter_batches_too(tmp_path):
  choose = random.Random(0)
  pairs = [dict(source="x" * choose.randint(1, 24), target="y" * choose.randint(1, 40)) for _ in range(200)]
  path = jsonl(tmp_path, pairs)
  fixed = data.Batches(data.prepare(config(path), Short()), "train", 2, 0)
  bucketed = data.Batches(data.prepare(config(path, buckets=(8, 16)), Short()), "train", 2, 0)
  seen = set()
  for step in range(60):
    whole, batch = fixed[step], bucketed[step]
    length = batch["tokens"].shape[1]
    seen.add(length)
    used = np.maximum((whole["source_segments"] > 0).sum(1), (whole["weights"] > 0).sum(1)).max()
    assert length == next(one for one in (8, 16, T) if one >= used)
    assert all(np.array_equal(batch[name], whole[name][:, :length]) for name in whole)
  assert seen == {8, 16, T}


def test_full_rows_have_one_length(tmp_path):
  made = data.prepare(config(jsonl(tmp_path), buckets=(8, 16)))
  batches = data.Batches(made, "train", 2, 0)
  assert batches.lengths == (T,) and batches[0]["tokens"].shape == (2, T)


@pytest.mark.parametrize("buckets", [(8, 8), (16, 8), (0, 8), (8, T), (8, T + 1)])
def test_buckets_ascend_below_the_length(buckets):
  with pytest.raises(Wrong, match=f"buckets=.*ascend.*data.sequence_length={T}"):
    DataConfig(sequence_length=T, buckets=buckets)
  assert fits(dict(sequence_length=T, buckets=[8, 16]), DataConfig).buckets == (8, 16)


@pytest.mark.parametrize("name, refused", [("next_token", True), ("contrastive", True), ("seq2seq", False)])
def test_buckets_of_rows_of_one_length_are_refused(name, refused):
  kind = dict(seq2seq="encoder_decoder", contrastive="encoder").get(name, "decoder")
  tree = dict(data=dict(buckets=(8, 16)), objective=dict(name=name), model=dict(D=8, L=1, N=1, kind=kind))
  if not refused:
    assert from_config_dict(tree).data.buckets == (8, 16)
    return
  with pytest.raises(FmjaxError, match=rf"(?s)CONFIG.*data\.buckets=\(8, 16\): {name} has rows of one length"):
    from_config_dict(tree)


# --- texts to texts


@pytest.mark.parametrize("source", ["csv", "parallel"])
def test_pairs_of_texts_from_tables_and_from_files_side_by_side(tmp_path, source):
  pairs = [(f"house {n}", f"Haus {n}" if n % 9 else "") for n in range(60)]
  if source == "csv":
    (tmp_path / "a.csv").write_text("de,en\n" + "".join(f"{de},{en}\n" for en, de in pairs))
    path = tmp_path / "a.csv"
  else:
    for column, name in enumerate(("en", "de")):
      (tmp_path / f"a.{name}").write_text("".join(f"{pair[column]}\n" for pair in pairs))
    path = tmp_path / "a.{}"
  prepared = data.prepare(config(path, source, columns=("en", "de")), SequenceToSequence())
  found = [
    tuple(prepared.tokenizer.decode(row[name].tolist()) for name in ("source", "target"))
    for split in ("train", "eval") for row in rows(prepared, split)
  ]  # fmt: skip
  assert sorted(found) == sorted(pair for pair in pairs if pair[1])
  assert prepared.facts["sources"][source]["dropped"] == dict(unused=7) and prepared.facts["eval"]["documents"] > 3


# --- what a person sees


@dataclasses.dataclass(frozen=True)
class Named(Grading):
  """Whose labels have names."""

  labels: tuple[str, ...] = ("poor", "good")

  def transform(self, record, rng, **how):
    return super().transform(record, rng, **how) | dict(labels=np.int32(len(record["marks"]) > 0))


def test_a_batch_shows_its_labels(tmp_path):
  for objective in (Grading(), Named()):
    prepared = data.prepare(config(jsonl(tmp_path), buckets=BUCKETS), objective)
    batches = data.Batches(prepared, "train", 4, 0)
    for step in range(6):
      batch = batches[step]
      for row, lines in enumerate(inspection.rows_of(batch, prepared)):
        (kind, pieces), (what, (label,)) = lines
        assert (kind, what, label.style) == ("tokens", "label", "target") and len(pieces) == batch["tokens"].shape[1]
        value = batch["labels"][row]
        assert label.text == (objective.labels[value] if isinstance(objective, Named) else f"{value:g}")
        assert sum(piece.style == "padding" for piece in pieces) == (batch["segments"][row] == 0).sum()
      facts = inspection.facts(batch, batches, step)
      assert facts.filled == pytest.approx((batch["segments"] > 0).mean()) and facts.documents == 1


def test_of_several_labels_those_that_count_are_shown():
  tags = dict(tokens=np.arange(3), labels=np.array([0, 1, 0]), weights=np.array([1.0, 1.0, 0.0]))
  assert inspection.lines(tags, tk.Bytes().show, ("O", "B-PER"))[-1] == (
    "label", [inspection.Piece("O B-PER", "target")],
  )  # fmt: skip


def test_a_row_that_cannot_be_read_may_be_left_out(tmp_path, capsys):
  prepared = data.prepare(config(jsonl(tmp_path), on_corrupt="skip"), Grading())
  (split,) = prepared.splits["train"]
  expected, damaged = rows(prepared), pathlib.Path(split.streams["grade"].files[0])
  content = bytearray(damaged.read_bytes())
  content[content.index(expected[0]["grade"].tobytes() + expected[1]["grade"].tobytes())] ^= 1
  damaged.write_bytes(content)
  split.streams["grade"].readers.clear()
  split.skip = False
  with pytest.raises(FmjaxError, match="(?s)DATA_BAD  record 0 of prepared data cannot be read.*train-grade"):
    split.read([0])
  split.skip = True
  assert {len(array) for array in split.read([0])[0].values()} == {0}
  assert "DATA_SKIPPED" in capsys.readouterr().err


@pytest.mark.parametrize("hosts", [1, 2])
def test_joined_rows_hold_the_examples_of_the_batch_in_order(mixed, hosts):
  B, join, plain = 4, 2, mixed[0]
  joined = dataclasses.replace(plain, config=dataclasses.replace(plain.config, join=join))
  whole, slices = (
    data.Batches(plain, "train", B, 1),
    [slice(B * h // hosts, B * (h + 1) // hosts) for h in range(hosts)],
  )
  own = [data.Batches(joined, "train", B, 1, rows) for rows in slices]
  for step in range(20):
    apart, parts = whole[step], [batches[step] for batches in own]
    batch = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    assert batch["tokens"].shape == (B // join, min(JOINED, join * T))
    for number in range(B):
      row, place = divmod(number, join)
      here, real = batch["segments"][row] == place + 1, apart["segments"][number] != 0
      np.testing.assert_array_equal(batch["tokens"][row][here], apart["tokens"][number][real])
      np.testing.assert_array_equal(batch["positions"][row][here], np.arange(real.sum()))
      assert batch["weights"][row, place] == apart["weights"][number]
    assert whole.records(step) == sum((batches.records(step) for batches in own), [])
  held = data.Batches(joined, "eval", B, 1)[0]
  assert held["tokens"].shape == (B, T) and "pools" not in held
