// Package model learns from plays what goes with what, and ranks tracks for one listener.
//
//	plays -> Log (bounded) -> Train (neighbours, factors, charts) -> Model -> Rank
//
// A Model holds tracks only: a listener's vector is made from what they heard when they ask (fold-in), which takes part
// of a millisecond. Hence the last plays count at once, nothing in a model file is about a person, and a million
// listeners cost it nothing. It is pure: no clock, no network; files only in Save, Load and their like of Log.
//
// Two models are blended, each for what it is good at: item-item similarity (cosine with shrinkage) for what was heard
// with what, matrix factorisation (implicit ALS with weighted negatives, as in Rendle and others, "Revisiting the
// performance of iALS", 2021) for what it has in common; and, with a small weight, what is heard much now. How much each
// weighs is not set by hand: Train holds the latest plays of some listeners back and takes what predicts them best.
package model
