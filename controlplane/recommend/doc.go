// Package recommend makes the home feed, radios, mixes and similar tracks.
//
//	plays (ClickHouse) -> train (a model file; old one until the new one is whole and sane) -> Model in memory
//	events -> recommend_signals (SQL) --ask--> rank with Model -> rules -> tracks with reasons
//
// A model knows tracks, not people (package model): what somebody heard is read from SQL when they ask, so that what they
// play or skip counts the next time, seconds later, and on every replica. With ClickHouse away the last model serves; with
// none at all, popularity in SQL and what is alike in the catalogue.
//
// Rules: nobody hears one artist all the time (caps), nor one kind of thing (maximal marginal relevance); what was heard
// in the last two weeks is held back from what is to be discovered, what was skipped for two months; some places are for
// tracks that are new here and that no model can know yet. Who turns personalisation off has no rows here, is left out of
// training from the next run on, and sees what everybody sees.
package recommend
