//! The pattern language of LLB (moby patternmatcher rules); being written.
