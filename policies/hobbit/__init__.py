"""HOBBIT: an expert that is missing is loaded in the precision that its weight deserves (README.md)."""

from policies.hobbit.policy import Hobbit as Hobbit
