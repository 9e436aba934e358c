"""Tests of fcnseg.models."""
