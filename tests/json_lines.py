"""What a line of the access log in JSON may look like: the schema that the package has."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema

from spliceproxy.observe import json_line

SCHEMA = json.loads(Path(json_line.__file__).with_name("json_line.schema.json").read_text("ascii"))

LINE = jsonschema.Draft202012Validator(SCHEMA)
"""Made once: ``jsonschema.validate`` checks the schema each time, which takes far longer than a
line."""
