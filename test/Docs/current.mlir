// The pages that are generated from the .td files are current.
// RUN: %S/../../script/docs --check
