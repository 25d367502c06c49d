"""The parts of a head-end as its configuration has them: what is made of which rooms. `headend.app` puts them together."""
