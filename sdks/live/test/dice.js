/** Random numbers that a seed determines. */
export function dice(seed) {
  let state = BigInt(seed);
  const next = () => {
    state = BigInt.asUintN(64, state * 6364136223846793005n + 1442695040888963407n);
    return Number(state >> 33n);
  };
  next();
  return { below: (limit) => next() % limit };
}
