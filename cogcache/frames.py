def from_document(*a): raise NotImplementedError
