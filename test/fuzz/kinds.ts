import { playConnection } from './connection.ts';
import { playEnvelope } from './envelope.ts';
import { playOnDemand } from './on-demand.ts';
import { playOpening } from './opening.ts';
import { playPrelude } from './prelude.ts';
import { playReceived } from './received.ts';
import { playRemoteOpening } from './remote-opening.ts';
import { playRouting } from './routing.ts';
import type { Play } from './run.ts';
import { playUrl } from './url.ts';

/** What can be played, and in how many of a hundred cases of a run: some take longer. */
export const KINDS: Readonly<Record<string, { readonly play: Play; readonly share: number }>> = {
  dialogue: { play: playConnection, share: 100 },
  prelude: { play: playPrelude, share: 100 },
  opening: { play: playOpening, share: 20 },
  envelope: { play: playEnvelope, share: 50 },
  received: { play: playReceived, share: 50 },
  routing: { play: playRouting, share: 20 },
  relay: { play: playRemoteOpening, share: 50 },
  url: { play: playUrl, share: 100 },
  'on-demand': { play: playOnDemand, share: 10 },
};
