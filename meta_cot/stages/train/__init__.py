# SPDX-License-Identifier: Apache-2.0
"""Stage `train`: a policy learns from records."""
