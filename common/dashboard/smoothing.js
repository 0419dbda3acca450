"use strict";
// The exponential moving average of a curve, as TensorBoard and W&B have it.

// weight: of all earlier values, from 0 (the curve as it is) to below 1. Divided by the sum of the weights so far (bias correction,
// as in Adam: Kingma & Ba 2015), so that it begins at the first value and not at zero. What was not logged stays so.
function smoothed(values, weight) {
  let mean = 0, count = 0;
  return values.map(value => {
    if (!known(value)) return null;
    mean = weight * mean + (1 - weight) * value;
    count += 1;
    return mean / (1 - weight ** count);
  });
}

// A curve's trace; with smoothing two, of which the raw one is faint and says nothing.
function curve_traces(trace, weight) {
  if (!weight) return [trace];
  const faint = {...trace, mode: "lines", opacity: 0.25, showlegend: false, hoverinfo: "skip", hovertemplate: null};
  return [faint, {...trace, mode: "lines", y: smoothed(trace.y, weight)}];
}
