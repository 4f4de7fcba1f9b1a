"""The `extract` task: a sentence or two of ordinary English becomes one JSON object.

The contract. Four kinds; every key is always there, in this order, null where the sentence does
not say:

    {"kind":"order","customer":…,"items":[{"item":…,"quantity":…}, …],"deliver_to":…,"date":…}
    {"kind":"appointment","person":…,"with":…,"date":…,"time":…,"place":…}
    {"kind":"contact","name":…,"company":…,"phone":…,"email":…}
    {"kind":"incident","what":…,"place":…,"date":…,"time":…,"reporter":…}

- Strings are spans of the prompt exactly as written: same letters, same case.
- Quantities are JSON integers in any wording: "three" 3, "a dozen" 12, "a pair of" 2, "a" 1.
- Unit words belong to the item: "5 boxes of nails" is item "boxes of nails", quantity 5.
- Articles: out of items and incidents ("a broken window" is "broken window"), in for places and
  dates ("the north entrance", "the 14th"). Prepositions stay out of every span.
- A part of the day belongs to the date ("tomorrow morning"), a clock time is the time.
- Titles belong to the name ("Dr. Chen"); the room and the address may be one place.
- The customer is whom the goods are for: the one who orders, or the one that they are sent to.
  An appointment's person is the one who goes to it, `with` is the other side: the person where
  both a person and their firm are named ("Paul from Acme" is "Paul").
- Serialised as json.dumps(obj, separators=(",", ":"), ensure_ascii=False).

How a sentence is made: a form (a skeleton from forms/*.txt, in the notation of `notation.py`) is
expanded, its slots are filled by samplers (`names`, `places`, `when`, `things`), sometimes a
distractor is put beside it, and in training some are roughened (`noise`). The answer is read off
the labelled spans of the finished text, so it is verbatim by construction.

What is held out: names (15% of every lexicon pool) in the split "names", names and whole forms (15%
of each kind) in the split "forms". Item and incident vocabulary, dates and the distractors' forms
are shared by these splits: they are not what they measure.

Beside this core, which stays as it is so that figures can be compared, training has a wider
grammar: forms/*_wide.txt, of which 15% are held out too, and for half of its sentences values from
words/*_wide.txt and rarer spellings of dates and times. What people order, break and visit is not
to be found in any list, so copying must not depend on one. The split "wider" measures it, with
held-out names and forms. A third part, forms/*_more.txt, is measured by no split.
"""

from gesso.tasks.extract.task import ExtractTask

__all__ = ["ExtractTask"]
