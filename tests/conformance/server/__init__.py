"""The conformance server: the product's server with the fixtures of the official suite beside it.

The suite (npm `@modelcontextprotocol/conformance`) calls tools, prompts and resources by fixed
names and says in each scenario what they must do; names and texts here are the suite's. They test
the product's server, its transport and its guard. Not part of the wheel; start it with
`python -m tests.conformance.server`.
"""
