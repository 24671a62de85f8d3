"""The report of a run or an adapter: what changed, what it cost, and whether anything was learned.

`subject` reads what the run says about itself, `evidence` measures, `flags` puts it into words, `html` and `card` show
it, `writing` puts the files into a folder.
"""
