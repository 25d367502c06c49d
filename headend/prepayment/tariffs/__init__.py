"""Tariffs: what energy costs, how a tariff file is read and said in words; and the files that come along."""
