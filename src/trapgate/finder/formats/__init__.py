"""Tells a report in the formats that people and their tools read: one file each, `registry` names them all."""
