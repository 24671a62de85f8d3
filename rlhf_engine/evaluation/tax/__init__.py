"""The alignment tax: what a policy lost elsewhere while it learned to please (Ouyang et al. 2022, section 4.2).

Perplexity on held-out texts, and accuracy on minimal pairs, of each checkpoint against the one that it started from.
"""
