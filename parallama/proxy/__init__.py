"""One exchange on its way: authenticated, judged, sent to a node, piped back and accounted for."""
