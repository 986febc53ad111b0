"""The form of an answer: what may come next, token by token, and whether the whole has it.

llguidance says which tokens a form allows; what else there is to an answer (reasoning, calls of
tools) is the business of this package.
"""
