"""`make bench`: how fast, beside what else, and with how much memory; goals printed with the figures.

Every comparison is made in one run on one machine: the compared ones take turns for several rounds, each measured client in a
process of its own so that its CPU time is its own, and what is compared is the ratio within a round.
"""
