"""The TOML file that describes a task: one model for each kind, the same for built-in tasks and for a user's own.

    kind = "classification"         # the words of the right label should follow the prompt
    template = "{sentence} It was"  # {field} names a field of the data, {field:filter} changes its text (prompt.py)
    label_field = "label"           # the field that holds the label; this is the default
    metric = "accuracy"             # the figure that an evaluation puts first; or "f1"

    [labels]                        # value in the data = the words that follow the prompt
    0 = " terrible"
    1 = " great"

    [source]                        # one of hub, files, package; no table if files come with each run
    hub = "nyu-mll/glue"            # a data set on the Hugging Face hub, with optional subset and revision
    subset = "sst2"
    # streaming = true                                            read rows as they come, never the whole split
    # files = {train = "train.jsonl", validation = "dev.csv"}     relative to the task file
    # package = "vaderSentiment"                                  an installed package with labelled data

    [splits]                        # the data set's own names, where they differ (hub only)
    train = "train"
    validation = "validation"

    [defaults]                      # what a run takes unless it says otherwise
    train = 1000
    validation = 500
    test = 1000
    max_tokens = 256

    [replace.question]              # text within a field = what stands in its place
    cause = "because"

The other kinds are "choice" (options of each row), "generation" (an answer is written and compared with references),
"prompts" (an answer is written, and a reward function judges it), "chat" (messages with the tokenizer's chat template) and
"text" (every token counts).  The classes below list their keys.  Anything else in the file is an error that names the line.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

SPLITS = ("train", "validation")
Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]


class Table(BaseModel):
    """A table of the file; unknown keys and loose types are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Files(Table):
    """[source.files]: a data file for each split."""

    train: str = ""
    validation: str = ""


class Source(Table):
    """[source]: where rows come from; at most one of hub, files and package is set.

    streaming: read the rows of a hub data set as they come.  first: draw from its first so many rows; 0: from as many as
    are drawn.
    """

    hub: str = ""
    subset: str | None = None
    revision: str | None = None
    streaming: bool = False
    first: Count = 0
    files: Files = Files()
    package: str = ""


class Splits(Table):
    """[splits]: the names of the splits in the data set of the hub."""

    train: Text = "train"
    validation: Text = "validation"


class Defaults(Table):
    """[defaults]: how many examples are drawn, and the longest row in tokens, where a run does not say."""

    train: Positive = 1000
    validation: Count = 500
    test: Count = 1000
    max_tokens: Positive = 256


class Description(Table):
    """What every kind has.  name, file and folder are those of the task file and no keys in it."""

    kind: str
    source: Source = Source()
    splits: Splits = Splits()
    defaults: Defaults = Defaults()
    replace: dict[str, dict[str, str]] = {}
    metric: str = ""
    name: str = ""
    file: str = ""
    folder: Path = Path()


class Prompted(Description):
    """A kind with a prompt.

    shorten: the field that gives way where a prompt is too long: it loses its end.  Without one the prompt loses its
    beginning.
    """

    template: Text
    shorten: str = ""


class Classification(Prompted):
    """kind = "classification": the same few continuations for every row.

    score: of an option, the mean or the sum of the log-probabilities of its tokens.
    """

    kind: Literal["classification"]
    metric: Literal["accuracy", "f1"] = "accuracy"
    label_field: Text = "label"
    labels: dict[str, str]
    score: Literal["mean", "sum"] = "mean"


class Choice(Prompted):
    """kind = "choice": every row has options of its own.

    options: a template for each option, the right one named by label_field (counted from 0).  Or options_field, a field
    that lists the options' words: option is the template of each, where {option} is its words, which also take the place of
    placeholder in it; the right ones are those that answers_field lists.  neutral: template of a prompt without the
    content, to see how likely an option is anyway (calibrated accuracy).
    """

    kind: Literal["choice"]
    metric: Literal["accuracy", "f1"] = "accuracy"
    options: list[Text] = []
    label_field: Text = "label"
    options_field: str = ""
    option: Text = " {option}"
    placeholder: str = ""
    answers_field: Text = "answers"
    neutral: str = ""
    score: Literal["mean", "sum"] = "mean"


class Generation(Prompted):
    """kind = "generation": the model writes on until stop, and the text is compared with the references.

    answers_field: a text, or a list of texts of which the first is trained on and any is right.  answer: template of what is
    trained on.  most_tokens: of a written answer.  normalise: whose rules for equal words (answers.py).
    """

    kind: Literal["generation"]
    metric: Literal["f1", "exact"] = "f1"
    answers_field: Text = "answers"
    answer: Text = " {answer}\n"
    stop: Text = "\n"
    most_tokens: Positive = 50
    normalise: Literal["squad", "drop"] = "squad"


class Prompts(Prompted):
    """kind = "prompts": the model writes on until stop ("": to the end of its text), and a reward function judges the text.

    reference_field: a right answer, which the function is told; "": there is none.  most_tokens: of a written answer.
    """

    kind: Literal["prompts"]
    metric: Literal["reward"] = "reward"
    reference_field: str = ""
    stop: str = "\n"
    most_tokens: Positive = 50


class Chat(Description):
    """kind = "chat": messages_field lists {role, content}; what the assistant says carries the loss."""

    kind: Literal["chat"]
    metric: Literal["loss"] = "loss"
    messages_field: Text = "messages"


class Plain(Description):
    """kind = "text": the loss of every token.  pack: join documents and cut them into windows of max_tokens."""

    kind: Literal["text"]
    metric: Literal["loss"] = "loss"
    template: Text = "{text}"
    pack: bool = False


KINDS: dict[str, type[Description]] = {
    "classification": Classification,
    "choice": Choice,
    "generation": Generation,
    "prompts": Prompts,
    "chat": Chat,
    "text": Plain,
}
