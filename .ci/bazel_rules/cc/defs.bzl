# SPDX-License-Identifier: Apache-2.0
"""The C++ rules that are built into Bazel 4, by their names in rules_cc."""

cc_binary = native.cc_binary
cc_library = native.cc_library
cc_test = native.cc_test
cc_toolchain = native.cc_toolchain
cc_toolchain_suite = native.cc_toolchain_suite
