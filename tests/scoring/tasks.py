"""Three tasks of lm-evaluation-harness in local files: choices, generation and perplexity, and what each gave.

  /path/to/python/with/torch/and/lm_eval tests/scoring/tasks.py

writes harness.json, the answers of the harness's own "hf" models. `run` gives those of any model.
"""

import json
import pathlib
import sys
import tempfile

COMMON = "dataset_path: json\ndataset_kwargs: {data_files: {test: DATA}}\ntest_split: test\n"
YAML = {
  "choices": """task: choices
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{label}}"
target_delimiter: ""
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
  "goes_on": """task: goes_on
output_type: generate_until
doc_to_text: "{{question or 'Rain'}}"
doc_to_target: "{{choices[label]}}"
generation_kwargs: {until: ["\\n", "Tu", "k"], max_gen_toks: 12, do_sample: false}
metric_list: [{metric: exact_match}]
""",
  "prose": """task: prose
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]
""",
}
# "x" and "T" are what the golden GPT-2 and Llama find likeliest there.
QUESTIONS = [
  ("The keeper of the light", [" counts", " sleeps", "x", "T"], 0),
  ("At noon the wind ", ["turns.", "stops at once."], 0),
  ("", ["Rain by night!", "No rain.", "What rain?", "Snow"], 0),
  ("The mate reads", [" the glass and finds that it fell by 3 lines in an hour", " a book"], 0),
  ("By 6 the deck", [" burns", " shines", " is dry"], 1),
  ("Who trusts his knee more than brass? The", [" captain", " mate", " cook", " keeper"], 0),
]


def write(folder) -> pathlib.Path:
  """The tasks' files in `folder`."""
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True)
  # The last question is longer than the model's positions: its beginning is left out.
  long = [(" ".join(q for q, _, _ in QUESTIONS) + " " + QUESTIONS[-1][0], *QUESTIONS[-1][1:])]
  questions = [dict(question=q, choices=c, label=n) for q, c, n in QUESTIONS + long]
  paragraphs = [dict(text=text) for text in (pathlib.Path(__file__).parent / "text.txt").read_text().split("\n\n")]
  for name, rows in (("questions", questions), ("paragraphs", paragraphs)):
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  for name, text in YAML.items():
    data = folder / ("paragraphs.jsonl" if name == "prose" else "questions.jsonl")
    (folder / f"{name}.yaml").write_text(COMMON.replace("DATA", str(data)) + text)
  return folder


def run(model, folder) -> dict:
  """Task -> its metrics and, of each document, the answers to its requests."""
  import lm_eval
  from lm_eval.tasks import TaskManager

  manager = TaskManager(include_path=str(folder), include_defaults=False)
  results = lm_eval.simple_evaluate(model, tasks=list(YAML), task_manager=manager, bootstrap_iters=0)
  found = {}
  for name in YAML:
    metrics = {key: value for key, value in results["results"][name].items() if isinstance(value, float)}
    samples = sorted(results["samples"][name], key=lambda sample: sample["doc_id"])
    answers = [sample["filtered_resps"] for sample in samples]
    found[name] = dict(metrics={k: v for k, v in metrics.items() if "stderr" not in k}, answers=answers)
  return found


def main():
  import folders
  import lm_eval.models.huggingface

  found = {}
  with tempfile.TemporaryDirectory() as home:
    tasks = write(pathlib.Path(home, "tasks"))
    for name in ("gpt2", "llama"):
      folder = folders.write(name, pathlib.Path(home, name))
      model = lm_eval.models.huggingface.HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=2)
      found[name] = run(model, tasks)
  (pathlib.Path(__file__).parent / "harness.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
  sys.exit(main())
