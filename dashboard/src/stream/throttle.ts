/** Run immediately, then at most once per `wait` ms; calls during the wait cause one run at its end. */
export function throttle(run: () => void, wait: number): () => void {
  let timer: ReturnType<typeof setTimeout> | undefined;
  let again = false;
  const start = () => {
    run();
    timer = setTimeout(() => {
      timer = undefined;
      if (again) {
        again = false;
        start();
      }
    }, wait);
  };
  return () => {
    if (timer === undefined) start();
    else again = true;
  };
}
