"""The demo: a corpus that every Python installation holds, with queries whose right answers are known."""
