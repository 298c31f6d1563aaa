/** The routing, by transcripts. */

import { replayRouting } from '../support/replay-routing.ts';
import { testTranscripts } from '../support/run-transcripts.ts';

testTranscripts(new URL('./', import.meta.url), replayRouting);
