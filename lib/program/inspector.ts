import { url } from 'node:inspector';
import { EXIT, Failure } from './failure.ts';

/**
 * Checks that Node's inspector is not open. SIGUSR1 opens it until the handler of sigusr1.ts is installed; so does
 * `--inspect` in NODE_OPTIONS. Call it before reading a private key.
 *
 * @throws Failure (111) when it is open. Closing it would not be enough: a debugger may already have run code in
 * this process.
 */
export function refuseInspector(): void {
  const address = url();
  if (address === undefined) return;
  throw new Failure(EXIT.systemCallFailed, `unable to start: the Node inspector is open at ${address}`);
}
