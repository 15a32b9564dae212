"""The peer of `data.py` in tf.data: the same tokens in rows of 512 from TFRecord, shuffled in a buffer, masked."""

import argparse
import json
import pathlib

import numpy as np
from datasets_data import SPECIAL, B, T, timed

MASK, VOCABULARY = 3, 8192 + SPECIAL


def make(folder):
  import tensorflow as tf

  tokens = np.load(folder / "tokens.npy")
  rows = tokens[: len(tokens) // (T - 2) * (T - 2)].reshape(-1, T - 2) + SPECIAL
  with tf.io.TFRecordWriter(str(folder / "rows.tfrecord")) as writer:
    for row in rows:
      writer.write(np.concatenate([[1], row, [2]]).astype(np.int32).tobytes())
  return dict(rows=len(rows))


def masked(rows):
  """BERT's 15 % and 80/10/10, a draw a token, as Hugging Face's collator makes them."""
  import tensorflow as tf

  tokens = tf.reshape(tf.io.decode_raw(rows, tf.int32), (B, T))
  chosen = (tf.random.uniform((B, T)) < 0.15) & (tokens >= SPECIAL)
  targets = tf.where(chosen, tokens, -100)
  draw = tf.random.uniform((B, T))
  other = tf.random.uniform((B, T), SPECIAL, VOCABULARY, tf.int32)
  tokens = tf.where(chosen & (draw < 0.8), MASK, tf.where(chosen & (draw >= 0.9), other, tokens))
  return tokens, targets


def read(folder, rounds):
  import tensorflow as tf

  data = tf.data.TFRecordDataset(str(folder / "rows.tfrecord")).repeat().shuffle(10_000)
  options = tf.data.Options()
  options.threading.private_threadpool_size = 1
  data = data.batch(B, drop_remainder=True).map(masked, num_parallel_calls=1).prefetch(2).with_options(options)
  return timed(iter(data.as_numpy_iterator()), lambda batch: batch[0].size, rounds)


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument("what", choices=["make", "read"])
  parser.add_argument("--folder", type=pathlib.Path)
  parser.add_argument("--rounds", type=int, default=1)
  args = parser.parse_args()
  print(json.dumps(make(args.folder) if args.what == "make" else read(args.folder, args.rounds)))


if __name__ == "__main__":
  main()
