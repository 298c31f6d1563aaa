import { url } from 'node:inspector';
import { EXIT, Failure } from './failure.ts';

/**
 * Checks that Node's inspector is not open. Before the handler of sigusr1.ts is in place, SIGUSR1 opens it; so
 * does `--inspect` in NODE_OPTIONS. To be called when a private key is about to be read.
 *
 * @throws Failure (111) when it is open. To close it would not do: who is connected may have run code here.
 */
export function refuseInspector(): void {
  const address = url();
  if (address === undefined) return;
  throw new Failure(EXIT.systemCallFailed, `unable to start: the inspector of Node is open at ${address}`);
}
