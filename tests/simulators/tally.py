"""Counts windows in a SQLite table of results. Imports nothing of Fieldcast: run as `python -I tally.py DATABASE …`.

Each sample carried an id; a result has the lowest and the highest id of its window, how many there were, and their sum.
A window is right if its ids are `size` consecutive ones that end where a window of that hop must. Says on standard
output what is there, missing, there twice and wrong, up to the newest id that was sent, as JSON.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
from collections import Counter


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("database")
    arguments.add_argument("--table", default="results")
    for name in ("sent", "size", "hop"):
        arguments.add_argument(f"--{name}", type=int, required=True)
    chosen = arguments.parse_args()
    size, hop = chosen.size, chosen.hop
    database = sqlite3.connect(f"file:{chosen.database}?mode=ro", uri=True)
    rows = database.execute(f'SELECT low, high, many, total FROM "{chosen.table}" ORDER BY sequence').fetchall()
    seen = Counter(int(high) for _, high, _, _ in rows)
    wrong = [row for row in rows if row[2] != size or row[3] != sum(range(int(row[0]), int(row[1]) + 1))]
    wrong += [row for row in rows if row[1] - row[0] + 1 != size]
    ends = {end for end in range(size - 1, chosen.sent) if (end + 1) % hop == 0}
    print(
        json.dumps(
            {
                "windows": len(rows),
                "expected": len(ends),
                "missing": sorted(ends - seen.keys())[:10],
                "repeated": sum(count - 1 for count in seen.values()),
                "elsewhere": sorted(seen.keys() - ends)[:10],
                "wrong": wrong[:3],
            }
        )
    )


if __name__ == "__main__":
    main()
