"""The model card that an export carries: what the model is, what it learned from, what was measured."""

import json


def card(name: str, what: str, config: dict, facts: dict, library: str = "transformers") -> str:
  """README.md: a head that registries read, with the licence for its author to fill in, and tables.

  `facts` are {title: {name: value}}, the tables of what is known of the model's origin.
  """
  head = ["license:  # fill in before publishing", f"library_name: {library}", "tags:", "- fmjax"]
  lines = ["---", *head, "---", "", f"# {name}", "", f"{what}, written by fmjax.", ""]
  known = dict(facts)
  known.setdefault("Trained on", {"data": "not known to the exporter: fill in"})
  known.setdefault("Measured", {"metric": "nothing was measured by the exporter"})
  known["Config"] = {key: value for key, value in config.items() if not isinstance(value, dict) and value is not None}
  for title, table in known.items():
    lines += [f"## {title}", "", "| | |", "|---|---|"]
    lines += [f"| {key} | {cell(value)} |" for key, value in table.items()] + [""]
  return "\n".join(lines)


def cell(value) -> str:
  text = value if isinstance(value, str) else json.dumps(value)
  return text.replace("|", "\\|").replace("\n", " ")
