"""The tables of a configuration file, each with its shape and what it refers to; `headend.config` reads them whole."""
