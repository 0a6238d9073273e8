# SPDX-License-Identifier: Apache-2.0
"""What XLA made of a program: its text, its work, its memory."""
